"""Storage besides the database."""
