"""The memory service over a real PostgreSQL with pgvector, and the real model."""
