"""The process that delivers events to the receivers of webhooks (docs/decisions/0020-webhooks.md)."""
