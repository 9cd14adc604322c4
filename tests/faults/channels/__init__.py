"""Every channel at once: a stream, server-sent events, Kafka and webhooks tell the same, while what carries them is killed."""
