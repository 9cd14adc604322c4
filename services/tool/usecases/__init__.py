"""One file for each RPC of ToolService."""
