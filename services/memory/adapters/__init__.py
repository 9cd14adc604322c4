"""Technology behind the ports: the embedding model."""
