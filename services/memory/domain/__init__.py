"""What memory knows, without a transport, a database or a model."""
