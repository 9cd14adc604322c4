"""The documentation page, and the metrics of the whole mesh at the admin port."""

from __future__ import annotations

import json
import re

import grpc
import httpx
import pytest
from guildmesh.monitor.v1 import monitor_service_pb2 as pb
from guildmesh.monitor.v1 import monitor_service_pb2_grpc as pb_grpc
from prometheus_client.parser import text_string_to_metric_families

from services.common.grpcx.status import error_info
from tests.integration.monitor.conftest import OTHERS, Mesh


def stub(mesh: Mesh) -> pb_grpc.MonitorServiceStub:
    return pb_grpc.MonitorServiceStub(mesh.monitor.channel())


async def test_the_open_api_document_names_the_paths_of_the_plan(mesh: Mesh) -> None:
    body = await stub(mesh).GetOpenApi(pb.GetOpenApiRequest())
    assert body.content_type == "application/json"
    assert {"/auth/token", "/chat", "/task", "/status", "/health", "/ready", "/v1/tasks"} <= set(json.loads(body.data)["paths"])


async def test_the_page_has_every_file_that_it_names(mesh: Mesh) -> None:
    page = await stub(mesh).GetDocs(pb.GetDocsRequest())
    assert page.content_type.startswith("text/html")
    files = re.findall(r'"/docs/([^"]+)"', page.data.decode())
    assert len(files) == 4
    for file in files:
        body = await stub(mesh).GetDocs(pb.GetDocsRequest(file=file))
        assert len(body.data) > 100


@pytest.mark.parametrize("file", ["x.js", "../__init__.py", "index.html"])
async def test_another_file_is_not_found(mesh: Mesh, file: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await stub(mesh).GetDocs(pb.GetDocsRequest(file=file))
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    assert error_info(unknown.value) == ("PAGE_NOT_FOUND", {"file": file})


async def test_the_metrics_port_serves_the_sum_of_all_processes_and_says_which_is_missing(mesh: Mesh) -> None:
    await stub(mesh).GetHealth(pb.GetHealthRequest())
    await mesh.stop("tool")
    async with httpx.AsyncClient() as client:
        response = await client.get(f"http://127.0.0.1:{mesh.monitor.running.admin_port}/metrics")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    up = {sample.labels["mesh_process"]: sample.value for sample in families["guildmesh_up"].samples}
    assert up == dict.fromkeys([*OTHERS, "monitor"], 1) | {"tool": 0}
    requests = families["agent_requests"].samples
    health = [sample.value for sample in requests if sample.labels.get("endpoint") == "/health"]
    # The others run in this very process here, so each counted the call that one of them served.
    assert health
    assert health[0] >= len(OTHERS)
    memory = families["process_resident_memory_bytes"].samples
    assert {sample.labels["mesh_process"] for sample in memory} == {*OTHERS, "monitor"} - {"tool"}
