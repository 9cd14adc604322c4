"""gRPC: servers with a checked chain of interceptors, and mutual-TLS channels between the services."""
