"""AgentService over gRPC, and the processes that serve it."""
