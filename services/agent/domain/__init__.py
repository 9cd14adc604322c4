"""What an agent and a scenario are; no transport, no storage."""
