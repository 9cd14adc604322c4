"""Monitor over real servers."""
