"""Prometheus metrics (requirement row 9)."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

requests_total = Counter(
    "agent_requests_total",
    "Requests served, by HTTP method, path template and HTTP status.",
    ["method", "endpoint", "status"],
)
request_duration_seconds = Histogram(
    "agent_request_duration_seconds", "Time to serve a request, in seconds.", ["method", "endpoint"], buckets=BUCKETS
)
active_count = Gauge("agent_active_count", "Agents that are working now.", ["agent_type"])
llm_tokens_total = Counter("llm_tokens_total", "Tokens read and written by language models.", ["provider", "model"])
