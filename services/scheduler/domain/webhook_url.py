"""Which URLs and addresses events may be sent to: nobody may have the mesh reach what only the mesh can reach."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from services.scheduler.domain.webhook_errors import InvalidWebhookUrl

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_DEFAULT_PORTS = {"https": 443, "http": 80}
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
# What Python calls global though nothing of the public internet is there, or though it leads to what is not.
_NEVER = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's own services, of each virtual machine
        "192.0.0.0/24",  # assignments of IETF protocols; Oracle's metadata
        "192.88.99.0/24",  # 6to4 relays
        "::/96",  # IPv4-compatible
        "64:ff9b:1::/48",  # local NAT64
        "2001::/23",  # Teredo and other protocols
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fec0::/10",  # site-local
    )
)


@dataclass(frozen=True, slots=True)
class WebhookTargets:
    """What an operator allows."""

    http: bool = False
    """whether a URL may be without TLS."""
    networks: tuple[Network, ...] = ()
    """whose addresses are allowed besides public ones."""
    ports: frozenset[int] = frozenset()
    """that are allowed; all when there are none."""

    def check(self, url: str) -> None:
        """Raises InvalidWebhookUrl, with what to do about it."""
        parts = self._split(url)
        port = port_of(parts)
        if self.ports and port not in self.ports:
            raise InvalidWebhookUrl(
                url, f"its port {port} is not one of {', '.join(map(str, sorted(self.ports)))} (GUILDMESH_WEBHOOK_PORTS)"
            )
        try:
            address = ipaddress.ip_address(parts.hostname or "")
        except ValueError:
            return
        if not self.allows(address):
            raise InvalidWebhookUrl(url, f"{address} is not a public address, and not in GUILDMESH_WEBHOOK_ALLOWED_NETWORKS")

    def allows(self, address: Address) -> bool:
        """Whether a connection to an address may be made."""
        if isinstance(address, ipaddress.IPv6Address):
            if address.scope_id is not None:
                return False
            if address.ipv4_mapped is not None:
                return self.allows(address.ipv4_mapped)
            if address in _NAT64[0]:
                return self.allows(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if any(address in network for network in self.networks if network.version == address.version):
            return True
        if any(address in network for network in _NEVER if network.version == address.version):
            return False
        return address.is_global and not address.is_multicast and not address.is_reserved

    def first_forbidden(self, addresses: Sequence[Address]) -> Address | None:
        """The first of a name's addresses that may not be reached; one is enough to refuse the name."""
        return next((address for address in addresses if not self.allows(address)), None)

    def _split(self, url: str) -> SplitResult:
        if any(ord(character) <= ord(" ") or ord(character) > ord("~") for character in url):
            raise InvalidWebhookUrl(
                url, "it has spaces or letters outside of ASCII; write a name in its xn-- form, and %20 for a space"
            )
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:
            raise InvalidWebhookUrl(url, str(error)) from error
        if parts.scheme not in (("https", "http") if self.http else ("https",)):
            raise InvalidWebhookUrl(url, "it must begin with https://" + (" or http://" if self.http else ""))
        if parts.username is not None or parts.password is not None or "@" in parts.netloc:
            raise InvalidWebhookUrl(
                url.replace(parts.netloc, "…"), "it must hold no user or password; the signature proves who sends"
            )
        if "#" in url:
            raise InvalidWebhookUrl(url, "it must hold no fragment (#…), which is never sent")
        if "\\" in url or not parts.hostname or parts.hostname.strip(".") == "" or "%" in parts.netloc:
            raise InvalidWebhookUrl(url, "it names no host")
        if parts.port == 0:
            raise InvalidWebhookUrl(url, "its port must be 1 to 65535")
        return parts


def port_of(parts: SplitResult) -> int:
    """The port of a URL."""
    return parts.port or _DEFAULT_PORTS[parts.scheme]
