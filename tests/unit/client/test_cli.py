"""The client's command line without a mesh."""

from __future__ import annotations

import importlib.metadata
import json

import grpc
import pytest
from guildmesh.scheduler.v1 import queue_pb2
from guildmesh_client import cli
from guildmesh_client.cli import connection
from guildmesh_client.cli.errors import CommandError, explain
from guildmesh_client.cli.output import print_json
from guildmesh_client.cli.tasks import json_object
from typer.testing import CliRunner

from services.embedded.ports import free_port


@pytest.mark.parametrize(
    ("url", "target", "secure"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", False),
        ("https://mesh.example", "mesh.example:443", True),
        ("", "", False),
    ],
)
def test_the_url_says_where_and_how(url: str, target: str, secure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUILDMESH_URL", url)
    monkeypatch.delenv("GUILDMESH_GRPC", raising=False)
    assert connection._target() == (target, secure)


def test_without_a_mesh_one_line_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GUILDMESH_URL", raising=False)
    monkeypatch.delenv("GUILDMESH_GRPC", raising=False)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [])
    with pytest.raises(CommandError, match="GUILDMESH_TOKEN"), connection.connect():
        pass


def test_a_mesh_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GUILDMESH_GRPC", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("GUILDMESH_TOKEN", "x")
    monkeypatch.setattr("sys.argv", ["guildmesh", "tasks", "get", "1"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    captured = capsys.readouterr()
    assert "does not answer" in captured.err
    assert captured.err.count("\n") == 1


def test_help_names_the_commands_of_both_distributions() -> None:
    text = CliRunner().invoke(cli.application(), ["--help"]).output
    server = ("up", "down", "status", "stop", "start", "logs", "doctor", "env")
    for name in (*server, "tasks", "schedules", "queues", "dead-letters", "users", "chat"):
        assert f" {name} " in text


@pytest.mark.parametrize("text", ["{", "[1]", "1"])
def test_a_context_that_is_no_object_is_told(text: str) -> None:
    with pytest.raises(CommandError, match="object"):
        json_object(text)


def test_an_error_of_the_channel_is_explained() -> None:
    assert explain(grpc.RpcError("broken")) == "broken"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "x", "--cron", "@daily", "--overlap", "never"], "allow, skip, buffer-one, cancel-running"),
        (["create", "x", "--cron", "@daily", "--missed", "never"], "skip, run-last, run-all"),
        (["create", "x", "--cron", "@daily", "--context", "[]"], "object"),
        (["update", "s"], "nothing to change"),
        (["update", "s", "--queue", "code"], "--description"),
        (["backfill", "s", "--from", "2026-11-22", "--to", "now"], "with a zone"),
    ],
)
def test_a_schedule_that_cannot_be_asked_for_is_told_before_anything_is_sent(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(cli.application(), ["schedules", *arguments])
    assert isinstance(result.exception, CommandError)
    assert says in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["queues", "create", "q", "--max-running", "many"], "whole number"),
        (["queues", "create", "q", "--attempts", "9" * 12], "whole number"),
        (["queues", "create", "q", "--rate", "fast"], "such as 0.5"),
        (["queues", "create", "q", "--burst", "3"], "--rate"),
        (["queues", "create", "q", "--keep", "2d"], "1d, 7d, 30d, 90d, forever"),
        (["queues", "create", "q", "--event-content", "secret"], "plain, omit, encrypted"),
        (["queues", "update", "q", "--weight", "acme"], "TENANT=WEIGHT"),
        (["queues", "update", "q"], "nothing to change"),
        (["dead-letters", "replay"], "--queue"),
        (["dead-letters", "replay", "1", "--queue", "q"], "--queue"),
        (["dead-letters", "replay", "1", "--limit", "3"], "go with --queue"),
        (["dead-letters", "replay", "--queue", "q", "--again"], "one task"),
    ],
)
def test_a_queue_or_a_replay_that_cannot_be_asked_for_is_told_before_anything_is_sent(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(cli.application(), arguments)
    assert isinstance(result.exception, CommandError), result.output
    assert says in str(result.exception)


def test_the_server_adds_to_the_events_of_the_client() -> None:
    text = CliRunner().invoke(cli.application(), ["events", "--help"]).output
    for name in ("watch", "replay", "acls"):
        assert f" {name} " in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--from", "yesterday"], "--from must be a time with a zone"),
        (["--from", "2026-11-28T09:00:00"], "with a zone"),
        (["--from", "0"], "numbered from 1 on"),
        (["--from", "5", "--to", "4"], "lies before"),
        (["--from", "1h", "--to", "2h"], "lies before"),
        (["--from", "1h", "--task", "7"], "is not the id of a task"),
        (["--from", "1h", "--topic", "guildmesh.task-events.v1"], "--to-public-topic"),
        (["--from", "1h", "--topic", "guildmesh.dead-letters.v1"], "choose another one"),
        (["--from", "1h", "--topic", "other", "--to-public-topic"], "leave --topic out"),
        (["--from", "1h", "--topic", "no topic"], "letters, digits"),
    ],
)
def test_a_replay_of_events_that_cannot_be_asked_for_is_told_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    result = CliRunner().invoke(cli.application(), ["events", "replay", *arguments])
    assert isinstance(result.exception, CommandError), result.output
    assert says in str(result.exception)


@pytest.mark.parametrize("text", ["{", '{"nodes": [{"kee": "a"}]}', "[]"])
def test_a_graph_that_cannot_be_read_is_told_before_anything_is_sent(text: str) -> None:
    result = CliRunner().invoke(cli.application(), ["tasks", "create-graph", "-"], input=text)
    assert isinstance(result.exception, CommandError)
    assert "is not a graph" in str(result.exception)


def test_json_says_what_is_false_and_leaves_out_what_is_not_set(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(queue_pb2.Queue(queue="letters", paused=True))
    shown = json.loads(capsys.readouterr().out)
    # Whether nothing starts any more must be there to be read, also when it is not so.
    assert (shown["paused"], shown["limits_in_force"]) == (True, False)
    assert "max_running" not in shown
