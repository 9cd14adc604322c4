"""Agent worker process: `python -m services.agent.worker`."""

from __future__ import annotations

from services.agent.settings import AgentSettings
from services.agent.worker.bootstrap import open_service
from services.common.service import run


def main() -> None:
    """Runs the worker until SIGTERM or SIGINT."""
    run("agent-worker", AgentSettings, open_service)


if __name__ == "__main__":
    main()
