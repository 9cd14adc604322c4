"""What a client of Kafka is given, and what is said of settings that do not go together."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from services.common.kafka.connection import KafkaSettings, kafka_arguments
from tests.support.service import mesh_certificates

LOGIN = {"kafka_sasl_username": "relay", "kafka_sasl_password": SecretStr("hush-hush")}


def settings(**values: Any) -> KafkaSettings:
    return KafkaSettings(_env_file=None, **values)


def refusal(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        settings(**values)
    return str(caught.value)


def test_plain_is_only_an_address() -> None:
    assert kafka_arguments(settings(kafka_bootstrap_servers="a:1,b:2")) == {"bootstrap_servers": "a:1,b:2"}


def test_a_login_is_scram_unless_it_says_otherwise() -> None:
    arguments = kafka_arguments(settings(kafka_security_protocol="sasl_plaintext", **LOGIN))
    assert arguments == {
        "bootstrap_servers": "127.0.0.1:9092",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "relay",
        "sasl_plain_password": "hush-hush",
    }
    plain = settings(kafka_security_protocol="SASL_PLAINTEXT", kafka_sasl_mechanism="plain", **LOGIN)
    assert kafka_arguments(plain)["sasl_mechanism"] == "PLAIN"


def test_tls_checks_the_brokers_name_and_authority(tmp_path: Path) -> None:
    folder = mesh_certificates(tmp_path) / "scheduler"
    files = {
        "kafka_ssl_ca_file": folder / "ca.crt",
        "kafka_ssl_cert_file": folder / "tls.crt",
        "kafka_ssl_key_file": folder / "tls.key",
    }
    context = kafka_arguments(settings(kafka_security_protocol="SSL", **files))["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert [each["subject"] for each in context.get_ca_certs()]


def test_a_password_is_not_shown() -> None:
    assert "hush-hush" not in repr(settings(kafka_security_protocol="SASL_SSL", **LOGIN))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, "KAFKA_SECURITY_PROTOCOL"),
        ({"kafka_security_protocol": "SASL_SSL"}, "needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"),
        ({"kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": "a"}, "needs KAFKA_SASL_PASSWORD"),
        (LOGIN, "KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD would not be used with KAFKA_SECURITY_PROTOCOL=PLAINTEXT"),
        ({"kafka_security_protocol": "SSL", "kafka_sasl_mechanism": "PLAIN"}, "KAFKA_SASL_MECHANISM would not be used"),
        ({"kafka_ssl_ca_file": "/ca.pem"}, "KAFKA_SSL_CA_FILE would not be used"),
        ({"kafka_security_protocol": "SSL", "kafka_ssl_cert_file": __file__}, "go together"),
        ({"kafka_security_protocol": "SSL", "kafka_ssl_ca_file": "/nowhere/ca.pem"}, "there is no file /nowhere/ca.pem"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, Any], words: str) -> None:
    assert words in refusal(**values)


def test_files_without_certificates_are_named(tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate")
    with pytest.raises(OSError, match="KAFKA_SSL_CA_FILE"):
        kafka_arguments(settings(kafka_security_protocol="SSL", kafka_ssl_ca_file=rubbish))
    with pytest.raises(OSError, match="KAFKA_SSL_CERT_FILE and KAFKA_SSL_KEY_FILE"):
        kafka_arguments(settings(kafka_security_protocol="SSL", kafka_ssl_cert_file=rubbish, kafka_ssl_key_file=rubbish))


def test_what_is_left_empty_is_unset() -> None:
    assert kafka_arguments(settings(KAFKA_SECURITY_PROTOCOL="", KAFKA_SASL_MECHANISM="")).keys() == {"bootstrap_servers"}
    assert settings(kafka_ssl_ca_file="", kafka_ssl_cert_file="", kafka_ssl_key_file="").kafka_ssl_ca_file is None
