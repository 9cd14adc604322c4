"""One use case a file, named after its RPC."""
