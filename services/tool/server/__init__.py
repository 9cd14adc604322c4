"""ToolService on the wire."""
