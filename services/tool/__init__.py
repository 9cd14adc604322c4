"""Owns the tools, the sandboxes that run them, and the effect ledger that says what ran (schema `tool`)."""
