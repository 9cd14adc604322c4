"""Language model providers, and clients of the other services."""
