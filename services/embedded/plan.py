"""What a mesh consists of: the declarative list of parts that the supervisor drives."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from services.embedded.errors import MeshError
from services.embedded.event_settings import event_exports
from services.embedded.gateway_config import GatewayConfig
from services.embedded.parts.envoy import Envoy
from services.embedded.parts.kafka import Kafka
from services.embedded.parts.llm import LocalModel
from services.embedded.parts.part import Part
from services.embedded.parts.postgres import Postgres
from services.embedded.parts.redis import Redis
from services.embedded.parts.service import Migrations, ServiceProcess
from services.embedded.ports import LOOPBACK
from services.embedded.settings import MeshSettings
from services.embedded.state import StateFolder

# Each has a certificate of its own; the relay and the webhooks use the scheduler's, the worker the agent's.
IDENTITIES = ("identity", "scheduler", "agent", "tool", "memory", "monitor", "gateway", "operator")
MIGRATED = ("identity", "scheduler", "agent", "tool", "memory")


@dataclass(frozen=True)
class Kind:
    """One kind of service process."""

    name: str
    module: str
    certificate: str
    pools: int = 1
    """Database pools of the usual size that it opens; 0 for none."""
    connections: int = 0
    """Database connections of a pool of another size."""
    serves: bool = True
    """Whether it serves gRPC."""
    nice: int = 0
    """How far it gives way to the others when there is too little processor for all."""
    secrets: tuple[str, ...] = ()
    """Secrets of the environment that only this kind gets."""


# Nobody waits for an event as one waits for an answer: what carries events catches up when tasks leave it the time.
_BEHIND_TASKS = 5
_KAFKA_LOGIN = ("KAFKA_SASL_PASSWORD",)
_MODEL_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
_MASTER_KEYS = ("GUILDMESH_EVENT_MASTER_KEY", "GUILDMESH_EVENT_MASTER_KEY_BEFORE")
KINDS = (
    Kind("identity", "services.identity", "identity", secrets=("JWT_SECRET_KEY", "GUILDMESH_MASTER_KEY")),
    Kind("scheduler", "services.scheduler", "scheduler", secrets=(*_KAFKA_LOGIN, *_MASTER_KEYS)),
    Kind("relay", "services.scheduler.relay", "scheduler", serves=False, nice=_BEHIND_TASKS, secrets=_KAFKA_LOGIN),
    Kind(
        "webhooks",
        "services.scheduler.webhooks",
        "scheduler",
        pools=0,
        connections=12,
        serves=False,
        nice=_BEHIND_TASKS,
        secrets=(*_KAFKA_LOGIN, *_MASTER_KEYS),
    ),
    Kind("agent", "services.agent", "agent", secrets=_MODEL_KEYS),
    Kind("worker", "services.agent.worker", "agent", pools=0, serves=False, secrets=_MODEL_KEYS),
    Kind("tool", "services.tool", "tool"),
    Kind("memory", "services.memory", "memory", secrets=("OPENAI_API_KEY",)),
    Kind("monitor", "services.monitor", "monitor", pools=0, secrets=_KAFKA_LOGIN),
)
_SECRETS = {name for kind in KINDS for name in kind.secrets}


@dataclass(frozen=True)
class Mesh:
    """The parts, and where a client finds them."""

    parts: list[Part]
    exports: dict[str, str] = field(default_factory=dict)
    """Variables that `guildmesh env` prints; they may hold passwords."""
    max_connections: int = 0
    """Of PostgreSQL: what all pools together may take, with a reserve."""


def required_connections(settings: MeshSettings) -> int:
    """Database connections that all pools may take, with 34 kept for what the tool service tells others, listeners and people."""
    pools = sum(kind.pools * (settings.api_workers if kind.name == "agent" else 1) for kind in KINDS)
    return pools * (settings.db_pool_size + settings.db_max_overflow) + sum(kind.connections for kind in KINDS) + 34


def plan(settings: MeshSettings, state: StateFolder) -> Mesh:
    """Chooses ports and passwords and lists the parts. Starts nothing.

    Raises:
        MeshError: a wheel is missing, or in production what of users' texts is on Kafka is not chosen.
    """
    _check_contents(settings)
    parts: list[Part] = []
    connections = required_connections(settings)
    environment: dict[str, str] = {}

    if database_url := state.external("DATABASE_URL", _value(settings.database_url)):
        environment["DATABASE_URL"] = database_url
    else:
        postgres = Postgres(
            state.path / "postgres",
            port=state.port("postgres"),
            password=state.secret("postgres"),
            superuser_password=state.secret("postgres-superuser"),
            max_connections=connections,
        )
        parts.append(postgres)
        environment["DATABASE_URL"] = postgres.url
        state.embed("DATABASE_URL", postgres.url)
    if redis_url := state.external("REDIS_URL", _value(settings.redis_url)):
        environment["REDIS_URL"] = redis_url
    else:
        parts.append(redis := Redis(state.path / "redis", port=state.port("redis"), password=state.secret("redis")))
        environment["REDIS_URL"] = redis.url
        state.embed("REDIS_URL", redis.url)
    if cache_url := state.external("REDIS_CACHE_URL", _value(settings.redis_cache_url)):
        environment["REDIS_CACHE_URL"] = cache_url
    else:
        cache = Redis(
            state.path / "cache",
            port=state.port("cache"),
            password=state.secret("cache"),
            cache=True,
            name="cache",
        )
        parts.append(cache)
        environment["REDIS_CACHE_URL"] = cache.url
        state.embed("REDIS_CACHE_URL", cache.url)
    if bootstrap_servers := state.external("KAFKA_BOOTSTRAP_SERVERS", settings.kafka_bootstrap_servers or None):
        environment["KAFKA_BOOTSTRAP_SERVERS"] = bootstrap_servers
    else:
        if settings.kafka_security_protocol.upper() != "PLAINTEXT":
            raise MeshError(
                f"KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol} is for a Kafka elsewhere: name it with"
                " KAFKA_BOOTSTRAP_SERVERS, or leave it out for the embedded one, which only this machine reaches."
            )
        ports = {"port": settings.kafka_port, "controller_port": state.port("kafka-controller")}
        kafka = Kafka(state.path / "kafka", **ports, nice=_BEHIND_TASKS)
        parts.append(kafka)
        environment["KAFKA_BOOTSTRAP_SERVERS"] = kafka.bootstrap_servers
        state.embed("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    if settings.local_llm_url:
        environment["GUILDMESH_LOCAL_LLM_URL"] = settings.local_llm_url
    elif settings.default_llm_provider == "local" or not (settings.openai_api_key or settings.openai_base_url):
        model = LocalModel(state.port("model"))
        parts.append(model)
        environment["GUILDMESH_LOCAL_LLM_URL"] = model.url

    parts += _services(settings, state, environment, {part.name for part in parts})
    exports = {
        "GUILDMESH_URL": f"http://{_reachable(settings.api_host)}:{settings.api_port}",
        "GUILDMESH_GRPC": f"{_reachable(settings.api_host)}:{settings.api_port}",
        "KAFKA_BOOTSTRAP_SERVERS": environment["KAFKA_BOOTSTRAP_SERVERS"],
        "DATABASE_URL": environment["DATABASE_URL"],
        "REDIS_URL": environment["REDIS_URL"],
        "REDIS_CACHE_URL": environment["REDIS_CACHE_URL"],
        "GUILDMESH_METRICS_URL": f"http://{LOOPBACK}:{settings.metrics_port}/metrics",
    }
    exports |= event_exports()
    return Mesh(parts, exports, connections)


def _check_contents(settings: MeshSettings) -> None:
    """Says before anything is started what the scheduler would refuse to start for."""
    if settings.profile != "production":
        return
    if settings.event_content is None:
        raise MeshError(
            "Set KAFKA_EVENT_CONTENT: in production what of users' texts is on Kafka must be chosen: plain (everything), omit"
            " (sizes and hashes) or encrypted (with a key of each user)."
        )
    if settings.event_content == "encrypted" and settings.event_master_key is None:
        raise MeshError(
            "Set GUILDMESH_EVENT_MASTER_KEY, which seals the keys that encrypt events (make one with 'openssl rand -base64 32'),"
            " and keep it: without it encrypted events cannot be read."
        )


def event_master_key(settings: MeshSettings, state: StateFolder) -> SecretStr | None:
    """What seals the keys of events and the secrets of webhooks: as set, or in development the folder's own.

    In production the operator keeps it where it is not lost with the folder.
    """
    if settings.event_master_key:
        return settings.event_master_key
    return SecretStr(state.key("event-master")) if settings.profile == "development" else None


def _value(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() or None if secret is not None else None


def _services(settings: MeshSettings, state: StateFolder, addresses: Mapping[str, str], embedded: set[str]) -> list[Part]:
    served = [kind for kind in KINDS if kind.serves]
    targets = {kind.name: f"{LOOPBACK}:{state.port(kind.name)}" for kind in served}
    admin_ports = {kind.name: state.port(f"{kind.name}-admin") for kind in KINDS if kind.name != "monitor"}
    # Embedded, the monitor serves the sum of all metrics on the port where a container has its own.
    admin_ports["monitor"] = settings.metrics_port
    common = {
        **{name: value for name, value in os.environ.items() if name.upper() not in _SECRETS},
        **addresses,
        "GUILDMESH_PROFILE": settings.profile,
        "GUILDMESH_STATE_DIR": str(state.path),
        "GUILDMESH_LISTEN_HOST": LOOPBACK,
        "GUILDMESH_DRAIN_SECONDS": f"{settings.drain_seconds:g}",
        **{f"GUILDMESH_{name.upper()}_TARGET": target for name, target in targets.items()},
        **{f"GUILDMESH_{name.upper()}_ADMIN": f"{LOOPBACK}:{port}" for name, port in admin_ports.items()},
        "API_WORKERS": str(settings.api_workers),
        **({"KAFKA_EVENT_CONTENT": settings.event_content} if settings.event_content else {}),
        # Each arena costs memory, and these processes have few busy threads.
        "MALLOC_ARENA_MAX": "2",
    }
    secrets = {
        "JWT_SECRET_KEY": settings.jwt_secret_key,
        "GUILDMESH_MASTER_KEY": settings.master_key or SecretStr(state.key("master")),
        "GUILDMESH_EVENT_MASTER_KEY": event_master_key(settings, state),
        "GUILDMESH_EVENT_MASTER_KEY_BEFORE": settings.event_master_key_before,
        "OPENAI_API_KEY": settings.openai_api_key,
        "ANTHROPIC_API_KEY": settings.anthropic_api_key,
        "KAFKA_SASL_PASSWORD": settings.kafka_sasl_password,
    }
    migrate_environment = common | {"GUILDMESH_TLS_DIR": str(state.tls / "operator")}
    database = [need for need in ("postgres",) if need in embedded]
    # Only in development: elsewhere an operator makes the first user, with a password of their own.
    developer = state.developer_password() if settings.profile == "development" else None
    parts: list[Part] = [Migrations(MIGRATED, migrate_environment, database, developer)]
    for kind in KINDS:
        own = {name: value.get_secret_value() for name in kind.secrets if (value := secrets[name])}
        port = state.port(kind.name) if kind.serves else None
        own_environment = (
            common
            | own
            | {
                "GUILDMESH_TLS_DIR": str(state.tls / kind.certificate),
                "GUILDMESH_PORT": str(port or 0),
                "GUILDMESH_ADMIN_PORT": str(admin_ports[kind.name]),
            }
        )
        parts.append(
            ServiceProcess(
                kind.name,
                kind.module,
                admin_port=admin_ports[kind.name],
                environment=own_environment,
                uses=embedded,
                drain_seconds=settings.drain_seconds,
                port=port,
                nice=kind.nice,
            )
        )
    gateway = _gateway(settings, state, targets, f"{LOOPBACK}:{admin_ports['identity']}")
    gateway.uses = tuple(kind.name for kind in KINDS)
    return [*parts, gateway]


def _gateway(settings: MeshSettings, state: StateFolder, targets: Mapping[str, str], identity_admin: str) -> Envoy:
    development = settings.profile == "development"
    origins = settings.cors_origins if settings.cors_origins is not None else ("*" if development else "")
    default_rate = 1.0 if development else 0.1
    return Envoy(
        state.path / "gateway",
        GatewayConfig(
            upstreams=targets,
            tls_dir=state.tls / "gateway",
            admin_address="",
            identity_admin=identity_admin,
            jwt_secret_key=settings.jwt_secret_key.get_secret_value() if settings.jwt_secret_key else None,
            jwt_algorithm=settings.jwt_algorithm,
            host=settings.api_host,
            port=settings.api_port,
            cors_origins=[origin.strip() for origin in origins.split(",") if origin.strip()],
            profile=settings.profile,
            sample_rate=default_rate if settings.trace_sample_rate is None else settings.trace_sample_rate,
        ),
    )


def _reachable(host: str) -> str:
    return LOOPBACK if host in ("0.0.0.0", "::") else host  # noqa: S104
