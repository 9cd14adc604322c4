"""MonitorService, gRPC health and gRPC reflection on the wire."""
