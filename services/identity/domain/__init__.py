"""What identity knows, without a transport or a database."""
