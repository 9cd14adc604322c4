"""The scheduler: tasks, their queues, leases, step journal and event log. The process `relay` publishes the log to Kafka.

It owns the schema `scheduler`, the packages guildmesh.scheduler.v1 and guildmesh.events.v1, and the topics
guildmesh.task-events.v1 and guildmesh.task-state.v1. It is the only one that numbers a task's events.
"""
