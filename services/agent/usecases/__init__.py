"""What the agent service does: one file for each RPC and for each kind of task."""
