"""One module per RPC."""
