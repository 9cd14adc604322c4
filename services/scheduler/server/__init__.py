"""The gRPC face: thin servicers and conversions."""
