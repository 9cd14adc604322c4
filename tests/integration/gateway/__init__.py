"""The gateway: a real Envoy before real gRPC servers."""
