"""The relay: publishes the event log to Kafka, a process of its own (`python -m services.scheduler.relay`).

Rows of the outbox are published shard by shard, in order, in one Kafka transaction a batch of a lane, and deleted when Kafka has
acknowledged them. A crash in between publishes a batch once more, with the same ids: an exact repeat, never a gap or a step back.
"""
