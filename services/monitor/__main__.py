"""Monitor service process: `python -m services.monitor`."""

from services.common.service import run
from services.monitor.bootstrap import open_service
from services.monitor.settings import MonitorSettings

if __name__ == "__main__":
    run("monitor", MonitorSettings, open_service)
