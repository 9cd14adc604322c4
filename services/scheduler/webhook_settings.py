"""Settings of what sends events to receivers of webhooks: the scheduler its pings, the webhook process everything else."""

from __future__ import annotations

import ipaddress

from pydantic import Field, field_validator

from services.common.settings import ServiceSettings
from services.scheduler.domain.webhook_url import Network, WebhookTargets

_LOOPBACK = "127.0.0.0/8,::1/128"


class WebhookTargetSettings(ServiceSettings):
    """Where events may be sent to, and how long a try may take."""

    webhook_allowed_networks: str | None = Field(
        None,
        validation_alias="GUILDMESH_WEBHOOK_ALLOWED_NETWORKS",
        description="networks, such as 10.1.0.0/16,fd00::/8, whose addresses webhooks may reach besides public ones; default the"
        " machine itself in development, none in production",
    )
    webhook_ports: str | None = Field(
        None,
        validation_alias="GUILDMESH_WEBHOOK_PORTS",
        description="ports that webhooks may reach, separated by commas; default all in development, 443 and 8443 in production",
    )
    webhook_timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=60,
        validation_alias="GUILDMESH_WEBHOOK_TIMEOUT_SECONDS",
        description="how long a receiver may take to answer, connecting included",
    )

    @field_validator("webhook_allowed_networks")
    @classmethod
    def _are_networks(cls, value: str | None) -> str | None:
        _networks(value or "")
        return value

    @field_validator("webhook_ports")
    @classmethod
    def _are_ports(cls, value: str | None) -> str | None:
        _ports(value or "")
        return value

    @property
    def webhook_targets(self) -> WebhookTargets:
        """Where events may be sent to."""
        development = self.profile == "development"
        networks = self.webhook_allowed_networks
        ports = self.webhook_ports
        return WebhookTargets(
            http=development,
            networks=_networks((_LOOPBACK if development else "") if networks is None else networks),
            ports=_ports(("" if development else "443,8443") if ports is None else ports),
        )


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"{error}; write networks such as 10.1.0.0/16, separated by commas") from error


def _ports(text: str) -> frozenset[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 1 << 16 for part in parts):
        raise ValueError("write ports such as 443,8443, each from 1 to 65535")
    return frozenset(map(int, parts))
