"""What a mesh consists of, and what replaces what."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.embedded import diagnosis
from services.embedded.diagnosis import Level
from services.embedded.errors import MeshError
from services.embedded.event_settings import as_exported
from services.embedded.parts.kafka_jars import locked
from services.embedded.parts.service import ServiceProcess
from services.embedded.plan import Mesh, plan, required_connections
from services.embedded.settings import MeshSettings, load_settings
from services.embedded.state import StateFolder
from services.embedded.supervisor import Supervisor
from services.scheduler.topic_settings import TopicSettings


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (MeshSettings.model_fields | TopicSettings.model_fields).values():
        monkeypatch.delenv(str(name.validation_alias), raising=False)
    monkeypatch.delenv("KAFKA_VALUE_FORMAT", raising=False)
    monkeypatch.chdir(tmp_path)


def planned(tmp_path: Path) -> Mesh:
    state = StateFolder(tmp_path / "mesh")
    state.create()
    mesh = plan(load_settings(), state)
    Supervisor(mesh.parts, state.logs, state.held)
    return mesh


def environment(mesh: Mesh, name: str) -> dict[str, str]:
    [part] = [part for part in mesh.parts if part.name == name]
    assert isinstance(part, ServiceProcess)
    return dict(part.launch().environment)


def test_a_mesh_has_every_part_and_every_process(tmp_path: Path) -> None:
    names = {part.name for part in planned(tmp_path).parts}
    assert names == {
        *("postgres", "redis", "cache", "kafka", "model", "gateway", "migrate"),
        *("identity", "scheduler", "relay", "webhooks", "agent", "worker", "tool", "memory", "monitor"),
    }


@pytest.mark.parametrize(
    ("variable", "value", "gone", "export"),
    [
        ("DATABASE_URL", "postgresql://db.example/guildmesh", "postgres", "DATABASE_URL"),
        ("REDIS_URL", "redis://redis.example:6379/0", "redis", "REDIS_URL"),
        ("REDIS_CACHE_URL", "redis://cache.example:6379/0", "cache", "REDIS_CACHE_URL"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka.example:9092", "kafka", "KAFKA_BOOTSTRAP_SERVERS"),
        ("OPENAI_API_KEY", "sk-test", "model", None),
        ("OPENAI_BASE_URL", "http://models.example/v1", "model", None),
    ],
)
def test_an_external_url_replaces_the_embedded_part(
    variable: str, value: str, gone: str, export: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    mesh = planned(tmp_path)
    assert gone not in {part.name for part in mesh.parts}
    if export:
        assert mesh.exports[export] == value
        assert environment(mesh, "scheduler")[variable] == value


def test_a_secret_goes_only_to_those_who_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET_KEY", "s" * 40)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka.example:9093")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "guildmesh")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "secret")
    mesh = planned(tmp_path)
    holders = {
        variable: {part.name for part in mesh.parts if isinstance(part, ServiceProcess) and variable in part.launch().environment}
        for variable in ("JWT_SECRET_KEY", "OPENAI_API_KEY", "GUILDMESH_MASTER_KEY", "KAFKA_SASL_PASSWORD")
    }
    assert holders["JWT_SECRET_KEY"] == {"identity"}
    assert holders["GUILDMESH_MASTER_KEY"] == {"identity"}
    assert holders["OPENAI_API_KEY"] == {"agent", "worker", "memory"}
    assert holders["KAFKA_SASL_PASSWORD"] == {"scheduler", "relay", "webhooks", "monitor"}


def test_a_login_at_the_embedded_kafka_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    with pytest.raises(MeshError, match="KAFKA_BOOTSTRAP_SERVERS"):
        planned(tmp_path)


def test_empty_values_of_a_copied_env_file_count_as_not_chosen(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=\nOPENAI_API_KEY=\nAPI_PORT=8123\n")
    settings = load_settings()
    assert settings.database_url is None
    assert settings.openai_api_key is None
    assert settings.api_port == 8123


def test_a_wrong_setting_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "99999")
    with pytest.raises(MeshError, match="API_PORT"):
        load_settings()


def test_the_pools_of_all_processes_fit_the_server(tmp_path: Path) -> None:
    settings = load_settings()
    mesh = planned(tmp_path)
    # Six processes with a pool of 20 and 40 more when busy, one with 12, and some for everyone else.
    assert mesh.max_connections == required_connections(settings) == 6 * 60 + 12 + 34


def test_every_kafka_jar_is_locked_by_its_hash() -> None:
    jars = dict(locked())
    assert "org.apache.kafka:kafka_2.13:4.1.0" in jars
    assert "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3" in jars
    assert all(len(digest) == 64 for digest in jars.values())


def test_what_env_exports_into_a_shell_does_not_make_the_next_start_external(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = planned(tmp_path)
    for name in ("DATABASE_URL", "REDIS_URL", "REDIS_CACHE_URL", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.setenv(name, first.exports[name])
    second = planned(tmp_path)
    assert {part.name for part in second.parts} == {part.name for part in first.parts}
    monkeypatch.setenv("DATABASE_URL", "postgresql://someone@elsewhere/theirs")
    assert "postgres" not in {part.name for part in planned(tmp_path).parts}


def test_in_production_what_is_on_kafka_must_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUILDMESH_PROFILE", "production")
    with pytest.raises(MeshError, match="Set KAFKA_EVENT_CONTENT"):
        planned(tmp_path)
    monkeypatch.setenv("KAFKA_EVENT_CONTENT", "encrypted")
    with pytest.raises(MeshError, match="Set GUILDMESH_EVENT_MASTER_KEY"):
        planned(tmp_path)
    monkeypatch.setenv("KAFKA_EVENT_CONTENT", "omit")
    assert "GUILDMESH_EVENT_MASTER_KEY" not in environment(planned(tmp_path), "scheduler")


def test_only_who_seals_and_signs_gets_the_master_key_which_development_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = environment(planned(tmp_path), "scheduler")["GUILDMESH_EVENT_MASTER_KEY"]
    for holder in ("scheduler", "webhooks"):
        assert environment(planned(tmp_path), holder)["GUILDMESH_EVENT_MASTER_KEY"] == made
    [kept] = [file for file in (tmp_path / "mesh").iterdir() if file.is_file() and made in file.read_text()]
    assert kept.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("GUILDMESH_EVENT_MASTER_KEY", "mine")
    mesh = planned(tmp_path)
    assert environment(mesh, "scheduler")["GUILDMESH_EVENT_MASTER_KEY"] == "mine"
    assert environment(mesh, "webhooks")["GUILDMESH_EVENT_MASTER_KEY"] == "mine"
    for other in ("relay", "identity", "agent", "worker", "tool", "memory", "monitor"):
        assert "GUILDMESH_EVENT_MASTER_KEY" not in environment(mesh, other)


def test_the_doctor_says_whether_the_secrets_of_webhooks_are_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> tuple[Level, str]:
        [finding] = list(diagnosis.webhook_secrets(load_settings()))
        return finding.level, finding.text

    assert told() == (Level.GOOD, "sealed in the database, with a key of the state folder")
    monkeypatch.setenv("GUILDMESH_PROFILE", "production")
    level, text = told()
    assert level is Level.NOTE
    assert text.startswith("plain in the database")
    assert "Set GUILDMESH_EVENT_MASTER_KEY" in text
    monkeypatch.setenv("GUILDMESH_EVENT_MASTER_KEY", "mine")
    assert told() == (Level.GOOD, "sealed in the database, with GUILDMESH_EVENT_MASTER_KEY")


def test_env_exports_how_events_are_published_where_that_is_not_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not {name for name in planned(tmp_path).exports if name.startswith(("KAFKA_TOPIC", "KAFKA_VALUE", "GUILDMESH_TASK_"))}
    chosen = {"KAFKA_TOPIC_PER_TENANT": "true", "KAFKA_VALUE_FORMAT": "json", "GUILDMESH_TASK_EVENTS_TOPIC": "ours.events"}
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    exports = planned(tmp_path).exports
    assert chosen.items() <= exports.items()
    # What goes by a running mesh reads it back, except for what its own environment says.
    monkeypatch.delenv("KAFKA_TOPIC_PER_TENANT")
    monkeypatch.delenv("KAFKA_VALUE_FORMAT")
    assert as_exported(exports) == {"topic_per_tenant": "true", "value_format": "json"}


def test_a_wrong_setting_of_events_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUILDMESH_TASK_EVENTS_TOPIC", "a topic")
    with pytest.raises(MeshError, match="GUILDMESH_TASK_EVENTS_TOPIC"):
        planned(tmp_path)
