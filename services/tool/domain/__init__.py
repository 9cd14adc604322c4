"""What a tool, an execution and a sandbox are, free of any transport or database."""
