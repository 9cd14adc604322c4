"""One file for each thing the scheduler does."""
