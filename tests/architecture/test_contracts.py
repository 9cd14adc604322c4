"""Rules that every contract keeps."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import EnumValueDescriptor, MethodDescriptor
from guildmesh.common.v1 import policy_pb2

from services.common.grpcx.channel import SERVICES
from services.common.grpcx.policy import policies

ROOT = Path(__file__).resolve().parents[2]
BUF = Path(sys.executable).parent / "buf"
PACKAGES = ("common", "identity", "scheduler", "agent", "tool", "memory", "monitor")


def modules() -> list[object]:
    files = sorted((ROOT / "proto" / "guildmesh").rglob("*.proto"))
    return [importlib.import_module(".".join(f.relative_to(ROOT / "proto").with_suffix("").parts) + "_pb2") for f in files]


def methods() -> list[MethodDescriptor]:
    found = []
    for module in modules():
        for service in module.DESCRIPTOR.services_by_name.values():  # type: ignore[attr-defined]
            found.extend(service.methods)
    return found


def reasons() -> list[tuple[str, EnumValueDescriptor]]:
    found = []
    for package in PACKAGES:
        module = importlib.import_module(f"guildmesh.{package}.v1.error_reason_pb2")
        found += [(package, value) for value in module.DESCRIPTOR.enum_types_by_name["ErrorReason"].values if value.number]
    return found


def test_every_service_in_the_contracts_is_known_to_the_channels() -> None:
    declared = {service for module in modules() for service in _services(module)}
    assert declared == {name for names in SERVICES.values() for name in names}


def _services(module: object) -> list[str]:
    return [service.full_name for service in module.DESCRIPTOR.services_by_name.values()]  # type: ignore[attr-defined]


def test_every_method_has_a_policy_with_access_and_callers() -> None:
    for module in modules():
        for service in _services(module):
            assert all(policy.access and policy.callers for policy in policies(service))


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.full_name)
def test_every_public_method_has_a_rest_binding(method: MethodDescriptor) -> None:
    policy = method.GetOptions().Extensions[policy_pb2.policy]
    http = method.GetOptions().Extensions[annotations_pb2.http]
    # A bidirectional stream has no REST form (an upload has one: the body); what only services may call needs none.
    if (method.client_streaming and method.server_streaming) or policy.access == policy_pb2.ACCESS_SERVICE:
        assert http.WhichOneof("pattern") is None
    else:
        assert http.WhichOneof("pattern") is not None


def test_no_two_methods_share_a_rest_path() -> None:
    seen: dict[str, str] = {}
    for method in methods():
        http = method.GetOptions().Extensions[annotations_pb2.http]
        for rule in (http, *http.additional_bindings):
            verb = rule.WhichOneof("pattern")
            if verb:
                key = f"{verb} {re.sub(r'{[^}]*}', '{}', getattr(rule, verb))}"
                assert seen.setdefault(key, method.full_name) == method.full_name, f"{key} is bound twice"


@pytest.mark.parametrize(("package", "value"), reasons(), ids=lambda item: getattr(item, "name", item))
def test_every_error_reason_has_an_example_and_a_name_that_clients_may_rely_on(package: str, value: EnumValueDescriptor) -> None:
    example = value.GetOptions().Extensions[policy_pb2.error]
    assert example.code
    assert example.message
    reason = value.name.removeprefix("ERROR_REASON_")
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+[A-Z0-9]", reason)
    assert len(reason) <= 63
    assert all(re.fullmatch(r"[a-z][a-zA-Z0-9_-]{0,63}", key) for key in example.metadata)


def test_only_the_stream_of_one_task_takes_a_ticket() -> None:
    takers = [
        policy.method for module in modules() for name in _services(module) for policy in policies(name) if policy.watch_ticket
    ]
    assert takers == ["/guildmesh.scheduler.v1.SchedulerService/StreamTaskEvents"]


def test_every_topic_that_a_setting_names_is_described() -> None:
    document = json.loads((ROOT / "gen" / "asyncapi" / "asyncapi.json").read_text())
    described = {channel["address"] for channel in document["channels"].values()}
    named = set()
    for path in sorted((ROOT / "services").rglob("*settings.py")):
        named |= set(re.findall(r'"(guildmesh\.[a-z-]+\.v\d+)"', path.read_text()))
    assert named == described, "give the message in the topic the option kafka_topic, then make gen"


def test_a_breaking_change_is_caught(tmp_path: Path) -> None:
    for name in ("proto", "third_party", "buf.yaml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    against = ["proto", "--against", str(tmp_path / "proto" / "released.binpb")]
    assert subprocess.run([BUF, "breaking", *against], cwd=tmp_path, capture_output=True).returncode == 0
    task = tmp_path / "proto" / "guildmesh" / "scheduler" / "v1" / "task.proto"
    task.write_text(task.read_text().replace("int32 attempt = 14", "string attempt = 14"))
    broken = subprocess.run([BUF, "breaking", *against], cwd=tmp_path, capture_output=True, text=True)
    assert broken.returncode == 100, broken
    assert "attempt" in broken.stdout
