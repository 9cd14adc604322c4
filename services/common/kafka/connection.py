"""How a process reaches Kafka: one place that makes what every client of it is given."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from services.common.settings import ServiceSettings, blank_is_unset

PLAINTEXT = "PLAINTEXT"


class KafkaSettings(ServiceSettings):
    """Settings of a process that talks to Kafka; the names without GUILDMESH_ are those of Kafka's own clients."""

    kafka_bootstrap_servers: str = Field("127.0.0.1:9092", validation_alias="KAFKA_BOOTSTRAP_SERVERS")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT",
        validation_alias="KAFKA_SECURITY_PROTOCOL",
        description="whether with TLS, a login, or both",
    )
    kafka_sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "", validation_alias="KAFKA_SASL_MECHANISM", description="kind of login; SCRAM-SHA-512 when it is not said"
    )
    kafka_sasl_username: str = Field("", validation_alias="KAFKA_SASL_USERNAME")
    kafka_sasl_password: SecretStr = Field(SecretStr(""), validation_alias="KAFKA_SASL_PASSWORD")
    kafka_ssl_ca_file: Path | None = Field(
        None,
        validation_alias="KAFKA_SSL_CA_FILE",
        description="PEM file of the authorities that sign the brokers' certificates; default those of the machine",
    )
    kafka_ssl_cert_file: Path | None = Field(
        None,
        validation_alias="KAFKA_SSL_CERT_FILE",
        description="PEM file of a certificate of one's own, where brokers want it",
    )
    kafka_ssl_key_file: Path | None = Field(
        None, validation_alias="KAFKA_SSL_KEY_FILE", description="PEM file of its key, without a password"
    )

    @field_validator("kafka_security_protocol", "kafka_sasl_mechanism", mode="before")
    @classmethod
    def _upper(cls, value: object, info: ValidationInfo) -> object:
        if value == "":
            return cls.model_fields[str(info.field_name)].default
        return value.upper() if isinstance(value, str) else value

    _blank_files = blank_is_unset("kafka_ssl_ca_file", "kafka_ssl_cert_file", "kafka_ssl_key_file")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _check_login(self)
        _check_files(self)
        return self


def _check_login(settings: KafkaSettings) -> None:
    protocol = settings.kafka_security_protocol
    given = {
        "KAFKA_SASL_USERNAME": settings.kafka_sasl_username,
        "KAFKA_SASL_PASSWORD": settings.kafka_sasl_password.get_secret_value(),
    }
    if protocol.startswith("SASL"):
        missing = [name for name, value in given.items() if not value]
        if missing:
            raise ValueError(f"KAFKA_SECURITY_PROTOCOL={protocol} needs {' and '.join(missing)}; set what is missing.")
        return
    unused = [name for name, value in (given | {"KAFKA_SASL_MECHANISM": settings.kafka_sasl_mechanism}).items() if value]
    if unused:
        raise ValueError(
            f"{', '.join(unused)} would not be used with KAFKA_SECURITY_PROTOCOL={protocol}; set it to SASL_SSL (or"
            " SASL_PLAINTEXT, on a network that nobody listens to), or leave them out."
        )


def _check_files(settings: KafkaSettings) -> None:
    protocol = settings.kafka_security_protocol
    files = {
        "KAFKA_SSL_CA_FILE": settings.kafka_ssl_ca_file,
        "KAFKA_SSL_CERT_FILE": settings.kafka_ssl_cert_file,
        "KAFKA_SSL_KEY_FILE": settings.kafka_ssl_key_file,
    }
    given = {name: path for name, path in files.items() if path is not None}
    if given and not protocol.endswith("SSL"):
        raise ValueError(
            f"{', '.join(given)} would not be used with KAFKA_SECURITY_PROTOCOL={protocol}; set it to SSL or SASL_SSL, or leave"
            " them out."
        )
    if (settings.kafka_ssl_cert_file is None) is not (settings.kafka_ssl_key_file is None):
        raise ValueError("KAFKA_SSL_CERT_FILE and KAFKA_SSL_KEY_FILE go together: a certificate is of no use without its key.")
    for name, path in given.items():
        if not path.is_file():
            raise ValueError(f"{name}: there is no file {path}; give the path of a PEM file that this process may read.")


def kafka_arguments(settings: KafkaSettings) -> dict[str, Any]:
    """The arguments that tell any client of aiokafka where Kafka is, and how it is spoken to.

    Raises:
        OSError: a file has no certificate or key that can be used.
    """
    arguments: dict[str, Any] = {"bootstrap_servers": settings.kafka_bootstrap_servers}
    protocol = settings.kafka_security_protocol
    if protocol == PLAINTEXT:
        return arguments
    arguments["security_protocol"] = protocol
    if protocol.endswith("SSL"):
        arguments["ssl_context"] = _ssl_context(settings)
    if protocol.startswith("SASL"):
        arguments["sasl_mechanism"] = settings.kafka_sasl_mechanism or "SCRAM-SHA-512"
        arguments["sasl_plain_username"] = settings.kafka_sasl_username
        arguments["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    return arguments


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_file)
    except ssl.SSLError as error:
        raise OSError(f"KAFKA_SSL_CA_FILE: {settings.kafka_ssl_ca_file} has no certificate in PEM form: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.kafka_ssl_cert_file is not None and settings.kafka_ssl_key_file is not None:
        try:
            # Without a password: for a key that has one, Python would ask for it on the terminal.
            context.load_cert_chain(settings.kafka_ssl_cert_file, settings.kafka_ssl_key_file, password=_no_password)
        except ssl.SSLError as error:
            raise OSError(
                f"KAFKA_SSL_CERT_FILE and KAFKA_SSL_KEY_FILE: {settings.kafka_ssl_cert_file} and {settings.kafka_ssl_key_file}"
                f" are not a certificate in PEM form and its key, without a password: {error}"
            ) from error
    return context


def _no_password() -> str:
    return ""
