"""What the configuration makes of its settings: keys that rotate, TLS, production, and what it refuses."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jwt.algorithms import ECAlgorithm

from services.embedded.gateway_config import GatewayConfig, render_envoy_config
from services.embedded.gateway_routes import public_methods, routes
from services.embedded.parts.envoy import Envoy
from services.embedded.ports import free_port, free_ports
from services.embedded.running import RunningPart
from tests.integration.gateway.conftest import Gateway, token
from tests.support.servers import server_folder
from tests.support.waiting import eventually

SERVICES = ("identity", "scheduler", "agent", "tool", "memory", "monitor")


class Keys:
    """An admin port of identity that gives public keys, which a test may change."""

    def __init__(self) -> None:
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        keys = self.keys

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                public = [
                    json.loads(ECAlgorithm.to_jwk(key.public_key())) | {"kid": kid, "alg": "ES256", "use": "sig"}
                    for kid, key in keys.items()
                ]
                body = json.dumps({"keys": public}).encode()
                self.send_response(200 if self.path == "/.well-known/jwks.json" else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"

    def add(self, kid: str) -> None:
        self.keys[kid] = ec.generate_private_key(ec.SECP256R1())

    def token(self, kid: str) -> str:
        """A token signed by one of the keys."""
        claims = jwt.decode(token(), options={"verify_signature": False})
        return jwt.encode(claims, self.keys[kid], algorithm="ES256", headers={"kid": kid})


@pytest.fixture
def keys() -> Iterator[Keys]:
    keys = Keys()
    thread = threading.Thread(target=keys.server.serve_forever)
    thread.start()
    yield keys
    keys.server.shutdown()
    thread.join()
    keys.server.server_close()


@contextmanager
def another(gateway: Gateway, **changes: Any) -> Iterator[str]:
    """A second Envoy before the same servers, with some settings changed; gives its host:port."""
    with server_folder("gateway") as folder:
        config = replace(gateway.config, port=free_port(), **changes)
        envoy = RunningPart(Envoy(folder / "envoy", config), folder / "envoy.log")
        try:
            envoy.start()
            yield f"127.0.0.1:{config.port}"
        finally:
            envoy.stop()


def status(address: str, bearer: str) -> int:
    return httpx.get(f"http://{address}/v1/tasks/x", headers={"authorization": f"Bearer {bearer}"}).status_code


def test_tokens_of_identitys_own_keys_pass_and_a_new_key_is_known_soon(gateway: Gateway, keys: Keys) -> None:
    keys.add("first")
    with another(gateway, jwt_secret_key=None, identity_admin=keys.address) as address:
        eventually(lambda: status(address, keys.token("first")) == 200)
        # A shared secret means nothing here: no algorithm may stand in for another.
        assert status(address, token()) == 401
        keys.add("second")
        eventually(lambda: status(address, keys.token("second")) == 200, 20)
        assert status(address, keys.token("first")) == 200
        withdrawn = keys.token("first")
        del keys.keys["first"]
        eventually(lambda: status(address, withdrawn) == 401, 20)
        assert status(address, keys.token("second")) == 200


def test_the_port_opens_before_identity_answers_and_tokens_pass_once_it_does(gateway: Gateway) -> None:
    later = Keys()
    later.add("key")
    later.server.server_close()
    with another(gateway, jwt_secret_key=None, identity_admin=later.address) as address:
        assert status(address, later.token("key")) == 401
        started = ThreadingHTTPServer(later.server.server_address[:2], later.server.RequestHandlerClass)
        thread = threading.Thread(target=started.serve_forever)
        thread.start()
        try:
            eventually(lambda: status(address, later.token("key")) == 200, 20)
        finally:
            started.shutdown()
            thread.join()
            started.server_close()


def test_the_public_port_speaks_tls_to_rest_and_grpc_when_it_has_a_certificate(gateway: Gateway) -> None:
    own = gateway.tls / "gateway"
    with another(gateway, tls_certificate=own / "tls.crt", tls_key=own / "tls.key", profile="production") as address:
        trusted = ssl.create_default_context(cafile=str(own / "ca.crt"))
        assert httpx.get(f"https://{address}/health", verify=trusted).json() == {"status": "healthy"}
        credentials = grpc.ssl_channel_credentials(root_certificates=(own / "ca.crt").read_bytes())
        with grpc.secure_channel(address, credentials) as channel:
            # In production a stranger may not even ask for health by gRPC.
            with pytest.raises(grpc.RpcError) as refused:
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://{address}/health")


def test_a_service_with_the_certificate_of_another_is_not_trusted(gateway: Gateway) -> None:
    scheduler = gateway.config.upstreams["scheduler"]
    with another(gateway, upstreams={**gateway.config.upstreams, "monitor": scheduler}) as address:
        answer = httpx.get(f"http://{address}/health", timeout=20)
        assert answer.status_code == 503
        assert answer.json()["details"][0]["metadata"] == {"dependency": "monitor"}


def test_no_new_trace_is_sampled_at_rate_zero_but_a_clients_choice_stays(gateway: Gateway) -> None:
    with another(gateway, sample_rate=0.0) as address:
        headers = {"authorization": f"Bearer {token()}"}
        made = httpx.get(f"http://{address}/v1/tasks/x", headers=headers).json()["labels"]["traceparent"]
        assert made.endswith("-00")
        chosen = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        kept = httpx.get(f"http://{address}/v1/tasks/x", headers=headers | {"traceparent": chosen}).json()["labels"]
        assert kept["traceparent"] == chosen


def config(**changes: Any) -> GatewayConfig:
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    values: dict[str, Any] = {
        "upstreams": {name: f"127.0.0.1:{port}" for name, port in ports.items()},
        "tls_dir": Path("tls"),
        "admin_address": "127.0.0.1:9901",
        "identity_admin": "127.0.0.1:9902",
    }
    return GatewayConfig(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"upstreams": {"identity": "127.0.0.1:1"}}, "agent, memory, monitor, scheduler, tool"),
        ({"profile": "production", "cors_origins": ["*"]}, "CORS_ORIGINS"),
        ({"tls_certificate": Path("tls.crt")}, "key"),
    ],
)
def test_settings_that_make_no_safe_gateway_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        render_envoy_config(config(**changes))


def test_a_name_is_looked_up_again_and_an_address_is_not() -> None:
    upstreams = {name: f"{name}.example:50051" for name in SERVICES} | {"agent": "10.0.0.1:50051"}
    rendered = yaml.safe_load(render_envoy_config(config(upstreams=upstreams)))
    clusters = {cluster["name"]: cluster for cluster in rendered["static_resources"]["clusters"]}
    assert clusters["agent"]["type"] == "STATIC"
    assert clusters["memory"]["cluster_type"]["name"] == "envoy.cluster.dns"


def test_administration_is_never_on_the_public_address() -> None:
    rendered = yaml.safe_load(render_envoy_config(config(host="0.0.0.0")))
    assert rendered["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def requirement(route: dict[str, Any]) -> Any:
    return route["typed_per_filter_config"]["envoy.filters.http.jwt_authn"].get("requirement_name")


@pytest.mark.parametrize("development", [True, False])
def test_every_route_to_a_service_asks_for_a_token_unless_the_contract_says_anonymous(development: bool) -> None:
    methods = public_methods()
    anonymous = {method.path for method in methods if method.anonymous}
    assert {path.rsplit("/", 1)[1] for path in anonymous} == {
        "IssueToken", "GetJsonWebKeySet", "GetHealth", "GetReadiness", "GetDetailedHealth", "GetAsyncApi",
        "GetOpenApi", "GetDocs",
    }  # fmt: skip
    table = routes(methods, development=development)
    for route in table:
        path = route["match"].get("path", "")
        if "route" not in route or not path.startswith("/guildmesh."):
            continue
        assert (requirement(route) is None) == (path in anonymous), path
    probes = [route for route in table if route["match"].get("path", "").startswith("/grpc.")]
    assert len(probes) == 5
    assert all((requirement(route) is None) == development for route in probes)
    open_rest = {
        route["match"].get("path") or route["match"]["safe_regex"]["regex"]
        for route in table
        if "route" in route and "grpc" not in route["match"] and "prefix" not in route["match"] and requirement(route) is None
    }
    assert open_rest == {
        "/auth/token", "/.well-known/jwks.json", "/health", "/ready", "/health/detailed", "/asyncapi.json", "/openapi.json",
        "/docs", "/docs/[^/]+",
    }  # fmt: skip
