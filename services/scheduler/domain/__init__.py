"""What a task is and how it changes; knows no transport, no database."""
