"""Webhook process: `python -m services.scheduler.webhooks`."""

from __future__ import annotations

from services.common.service import run
from services.scheduler.webhooks.bootstrap import open_webhooks
from services.scheduler.webhooks.settings import WebhookSettings

if __name__ == "__main__":
    run("webhooks", WebhookSettings, open_webhooks)
