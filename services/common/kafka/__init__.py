"""How a process reaches Kafka, and the topics that it publishes to."""
