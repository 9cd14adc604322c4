"""A Kafka as a company runs it: TLS with certificates on both sides, logins by SCRAM and PLAIN, and access rules."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from services.common.certificates import issue_mesh_certificates
from services.embedded.parts.kafka import Kafka
from services.embedded.ports import LOOPBACK, free_ports
from services.embedded.running import RunningPart
from tests.support.servers import server_folder

ADMIN = "admin"
BROKER = "broker"
_CLIENT = "client"
_LOGIN_MODULES = "org.apache.kafka.common.security"


class SecureKafka(Kafka):
    """One node. The plain listener is the broker's own, and that of the check whether it is up."""

    def __init__(self, folder: Path, users: Sequence[str]) -> None:
        """Knows `users` by SCRAM, and the super user ADMIN by PLAIN."""
        port, controller_port, self.secure_port = free_ports(3)
        super().__init__(folder / "kafka", port=port, controller_port=controller_port)
        self._tls = folder / "tls"
        issue_mesh_certificates(self._tls, [BROKER, _CLIENT])
        for name in (BROKER, _CLIENT):
            (self._tls / name / "both.pem").write_text(
                (self._tls / name / "tls.key").read_text() + (self._tls / name / "tls.crt").read_text()
            )
        self._passwords = {user: secrets.token_urlsafe(9) for user in (ADMIN, *users)}

    def client(self, user: str, **changes: Any) -> dict[str, Any]:
        """The settings of a client that logs in as a user."""
        folder = self._tls / _CLIENT
        return {
            "kafka_bootstrap_servers": f"{LOOPBACK}:{self.secure_port}",
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_mechanism": "PLAIN" if user == ADMIN else "SCRAM-SHA-512",
            "kafka_sasl_username": user,
            "kafka_sasl_password": SecretStr(self._passwords[user]),
            "kafka_ssl_ca_file": folder / "ca.crt",
            "kafka_ssl_cert_file": folder / "tls.crt",
            "kafka_ssl_key_file": folder / "tls.key",
        } | changes

    def _format_options(self) -> tuple[str, ...]:
        options: list[str] = []
        for user, password in self._passwords.items():
            options += ("--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]")
        return tuple(options)

    def _settings(self) -> dict[str, object]:
        listener = "listener.name.sasl_ssl"
        secure = f"SASL_SSL://{LOOPBACK}:{self.secure_port}"
        settings = super()._settings()
        return settings | {
            "listeners": f"{settings['listeners']},{secure}",
            "advertised.listeners": f"{settings['advertised.listeners']},{secure}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            f"{listener}.plain.sasl.jaas.config": (
                f'{_LOGIN_MODULES}.plain.PlainLoginModule required user_{ADMIN}="{self._passwords[ADMIN]}";'
            ),
            f"{listener}.scram-sha-512.sasl.jaas.config": f"{_LOGIN_MODULES}.scram.ScramLoginModule required;",
            f"{listener}.ssl.client.auth": "required",
            f"{listener}.ssl.keystore.type": "PEM",
            f"{listener}.ssl.keystore.location": self._tls / BROKER / "both.pem",
            f"{listener}.ssl.truststore.type": "PEM",
            f"{listener}.ssl.truststore.location": self._tls / BROKER / "ca.crt",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{ADMIN}",
        }


@contextmanager
def running_secure_kafka(*users: str) -> Iterator[SecureKafka]:
    """One node that knows these users; see SecureKafka."""
    with server_folder("secure-kafka") as folder:
        part = SecureKafka(folder, users)
        running = RunningPart(part, folder / "log")
        running.start()
        try:
            yield part
        finally:
            running.kill()
