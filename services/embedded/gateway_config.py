"""The gateway's Envoy configuration: gateway/envoy.yaml.j2 filled from the settings and the contracts."""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2

from services.common.resources import resource
from services.embedded.gateway_replies import local_replies
from services.embedded.gateway_routes import MAX_BODY_BYTES, UNARY_TIMEOUT, descriptor_set, public_methods, routes

Json = dict[str, Any]

MAX_RESPONSE_BYTES = 32 * 1024 * 1024
"""A unary answer as JSON: a task with a context and a result of 1 MiB each, escaped, is less."""
MAX_CONNECTIONS = 20_000
"""Connections of clients; more are refused."""
JWKS_PATH = "/.well-known/jwks.json"
"""Where identity's admin port gives the keys that verify its tokens."""
ISSUER = AUDIENCE = "guildmesh"
"""Claims iss and aud of identity's tokens."""
WATCH_AUDIENCE = "guildmesh-watch"
"""Claim aud of tokens that show the events of one task."""
WATCH_PARAMETER = "ticket"
"""The query parameter that has such a token."""
WATCH_COOKIE = "guildmesh_watch"
"""The cookie that has one."""


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """What a gateway is told.

    Attributes:
        upstreams: "host:port" of each service by its name (identity, scheduler, agent, tool, memory, monitor).
        tls_dir: folder with ca.crt, tls.crt and tls.key of the gateway's certificate in the mesh.
        admin_address: Envoy's own administration, "127.0.0.1:PORT" or "unix:PATH"; never public.
        identity_admin: "host:port" of identity's admin port, asked for the public keys when there is no shared secret.
        jwt_secret_key: shared secret of the tokens, or None for keys of identity's own.
        jwt_algorithm: algorithm of tokens signed by the shared secret.
        host: address to listen on.
        port: port to listen on.
        cors_origins: origins of browsers that may call; "*" is for development only.
        profile: "development" answers reflection and health without a token.
        sample_rate: share of new traces that are sampled, 0 to 1.
        tls_certificate: certificate chain of the public port, or None for plain HTTP.
        tls_key: its key.
        trusted_proxies: load balancers before the gateway whose X-Forwarded-For is believed.
        access_log: whether each request is logged to stdout as JSON.
    """

    upstreams: Mapping[str, str]
    tls_dir: Path
    admin_address: str
    identity_admin: str
    jwt_secret_key: str | None = None
    jwt_algorithm: str = "HS256"
    host: str = "0.0.0.0"  # noqa: S104 - the plan's API_HOST
    port: int = 8000
    cors_origins: Sequence[str] = ()
    profile: Literal["development", "production"] = "development"
    sample_rate: float = 1.0
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    trusted_proxies: int = 0
    access_log: bool = True


def render_envoy_config(config: GatewayConfig) -> str:
    """The YAML that `envoy --config-path` (or `--config-yaml`) takes.

    Raises:
        ValueError: a service has no upstream, CORS is open to all in production, or the TLS pair is not complete.
    """
    methods = public_methods()
    _check(config, {method.cluster for method in methods})
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - what is made is YAML, and every value passes through tojson
    )
    # Jinja's own tojson escapes for HTML; YAML reads plain JSON.
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=True)
    lua = {name: resource(f"gateway/{name}.lua").read_text() for name in ("trace", "token_form", "last_event_id")}
    lua["trace"] = environment.from_string(lua["trace"]).render(sampled_below=round(config.sample_rate * 2**24))
    return environment.from_string(resource("gateway/envoy.yaml.j2").read_text()).render(
        config=config,
        lua=lua,
        admin_address=_admin_address(config.admin_address),
        discovery=_discovery,
        endpoints=_endpoints,
        cors=_cors(config.cors_origins),
        jwt_provider=_jwt_provider(config),
        watch_provider=_watch_provider(config),
        watch_parameter=WATCH_PARAMETER,
        local_replies=local_replies(),
        descriptors=base64.b64encode(descriptor_set().SerializeToString(deterministic=True)).decode(),
        transcoded_services=sorted({method.service for method in methods if method.rest}),
        routes=routes(methods, development=config.profile == "development"),
        unary_timeout=UNARY_TIMEOUT,
        max_body=MAX_BODY_BYTES,
        max_response=MAX_RESPONSE_BYTES,
        max_connections=MAX_CONNECTIONS,
    )


def _check(config: GatewayConfig, clusters: set[str]) -> None:
    missing = sorted(clusters - set(config.upstreams))
    if missing:
        raise ValueError(f"upstreams lacks the address of: {', '.join(missing)}")
    if config.profile == "production" and "*" in config.cors_origins:
        raise ValueError("CORS_ORIGINS is '*': in production name the origins that may call, or none")
    if (config.tls_certificate is None) != (config.tls_key is None):
        raise ValueError("a TLS certificate needs its key and the key its certificate: set both or none")


def _jwt_provider(config: GatewayConfig) -> Json:
    provider: Json = {
        # Only this header: a token in a URL ends up in logs.
        "from_headers": [{"name": "Authorization", "value_prefix": "Bearer "}],
        "forward": False,
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "forward_payload_header": "x-guildmesh-claims",
        "require_expiration": True,
        "clock_skew_seconds": 5,
    }
    if config.jwt_secret_key:
        key = base64.urlsafe_b64encode(config.jwt_secret_key.encode()).decode().rstrip("=")
        keys = {"keys": [{"kty": "oct", "alg": config.jwt_algorithm, "k": key}]}
        # Remembering what verified is safe only with a secret that stays: a key that is withdrawn must count at once.
        return provider | {"local_jwks": {"inline_string": json.dumps(keys)}, "jwt_cache_config": {"jwt_cache_size": 1000}}
    return provider | {
        "remote_jwks": {
            "http_uri": {"uri": f"http://{config.identity_admin}{JWKS_PATH}", "cluster": "identity_admin", "timeout": "2s"},
            "cache_duration": "3s",
            # Fetched ahead and kept while identity is away; the port opens before identity answers.
            "async_fetch": {"fast_listener": True, "failed_refetch_duration": "0.5s"},
        }
    }


def _watch_provider(config: GatewayConfig) -> Json:
    """Who follows one task from a browser: the same keys, another audience, other places, so that neither does for the other."""
    provider = _jwt_provider(config) | {"audiences": [WATCH_AUDIENCE], "from_params": [WATCH_PARAMETER]}
    del provider["from_headers"]
    return provider | {"from_cookies": [WATCH_COOKIE]}


def _cors(origins: Sequence[str]) -> Json:
    allowed: list[Json] = [{"safe_regex": {"regex": ".*"}} if origin == "*" else {"exact": origin} for origin in origins]
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": allowed,
        "allow_methods": "GET, POST, PATCH, PUT, DELETE, OPTIONS",
        "allow_headers": "authorization, content-type, last-event-id, traceparent, tracestate",
        "expose_headers": "x-trace-id, x-request-id, retry-after, www-authenticate",
        "max_age": "600",
        # Tokens travel in a header and tickets in the URL, so no other origin ever needs a browser's cookies.
        "allow_credentials": False,
    }


def _split(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host.strip("[]"), int(port)


def _admin_address(address: str) -> Json:
    if address.startswith("unix:"):
        return {"pipe": {"path": address.removeprefix("unix:"), "mode": 0o600}}
    host, port = _split(address)
    return {"socket_address": {"address": host, "port_value": port}}


def _discovery(target: str) -> str:
    """How the addresses of a host are found: as they stand, or by DNS, all of them, again every 5 s."""
    try:
        ipaddress.ip_address(_split(target)[0])
    except ValueError:
        dns = {
            "@type": "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster",
            "dns_refresh_rate": "5s",
            "dns_lookup_family": "V4_PREFERRED",
            "respect_dns_ttl": False,
        }
        return f"cluster_type: {json.dumps({'name': 'envoy.cluster.dns', 'typed_config': dns})}"
    return "type: STATIC"


def _endpoints(name: str, target: str) -> Json:
    host, port = _split(target)
    endpoint = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
