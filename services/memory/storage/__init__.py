"""PostgreSQL storage of memory, always for one tenant."""
