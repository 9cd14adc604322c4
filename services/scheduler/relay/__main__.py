"""Relay process: `python -m services.scheduler.relay`."""

from __future__ import annotations

from services.common.service import run
from services.scheduler.relay.bootstrap import open_relay
from services.scheduler.relay.settings import RelaySettings

if __name__ == "__main__":
    run("relay", RelaySettings, open_relay)
