"""Tells how the whole mesh is.

Health, readiness and status (requirement rows 14 and 18), the sum of all metrics (row 9), the documentation of the REST
surface, and gRPC's own health and reflection services for every public service.

Owns no data. Asks: every service by grpc.health.v1 over mutual TLS, the scheduler for its task counts, PostgreSQL, Redis and
Kafka for a sign of life, and the admin ports for metrics.
"""
