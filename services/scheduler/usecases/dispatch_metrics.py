"""Metrics of the replica that decides."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

owner = Gauge("guildmesh_dispatch_owner", "1 in the process that decides what starts of queues with limits or shares, else 0.")
take_overs = Counter("guildmesh_dispatch_take_overs", "How often this process has begun to decide, or has had to begin anew.")
decisions = Histogram(
    "guildmesh_dispatch_decision_seconds",
    "From a decision to the commit of its starts.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
refused = Counter(
    "guildmesh_dispatch_refused", "Decisions that were refused when they were to be started, by why: epoch, limits.", ["why"]
)
starts = Counter(
    "guildmesh_dispatch_starts",
    "Tasks that were started by decision: created (in the moment it was created), waited.",
    ["how"],
)
running = Gauge("guildmesh_dispatch_running_tasks", "Tasks that run of queues that one replica decides for.", ["queue"])
throttled = Counter(
    "guildmesh_dispatch_throttled",
    "Decisions in which a limit kept waiting tasks of a queue from starting: max_running, max_running_per_key, rate, paused.",
    ["queue", "limit"],
)
