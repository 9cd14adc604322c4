"""The rest of the outside: notifications of PostgreSQL."""
