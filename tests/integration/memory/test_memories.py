"""Memories over mutual TLS, a real database and the real model."""

from __future__ import annotations

import asyncio
import uuid
from typing import TypeAlias

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from guildmesh.memory.v1 import memory_service_pb2 as pb
from guildmesh.memory.v1 import memory_service_pb2_grpc as pb_grpc

from services.common.context import Principal
from services.common.grpcx.status import error_info
from tests.integration.memory.conftest import someone
from tests.support.service import TestServer, metadata

Stub: TypeAlias = "pb_grpc.MemoryServiceAsyncStub"


async def remember(stub: Stub, who: Principal, content: str, owner: str = "", request_id: str = "") -> pb.Memory:
    request = pb.CreateMemoryRequest(memory=pb.Memory(content=content, owner=owner), request_id=request_id)
    return await stub.CreateMemory(request, metadata=metadata(who))


async def search(stub: Stub, who: Principal, query: str, limit: int = 0, owner: str = "") -> list[pb.MemoryMatch]:
    request = pb.SearchMemoriesRequest(query=query, limit=limit, owner=owner)
    return list((await stub.SearchMemories(request, metadata=metadata(who))).matches)


async def test_a_memory_is_stored_and_given_back(stub: Stub) -> None:
    who = someone()
    details = Struct()
    details.update({"source": "sales.csv", "rows": 12})
    request = pb.CreateMemoryRequest(memory=pb.Memory(content="Sales rose in May.", owner="agent-7", metadata=details))
    stored = await stub.CreateMemory(request, metadata=metadata(who))
    assert (stored.content, stored.owner, stored.metadata) == ("Sales rose in May.", "agent-7", details)
    found = await stub.GetMemory(pb.GetMemoryRequest(memory_id=stored.memory_id), metadata=metadata(who))
    assert found == stored


async def test_the_owner_is_the_caller_unless_another_is_named(stub: Stub) -> None:
    assert (await remember(stub, someone(), "text")).owner == "ada"


async def test_search_finds_by_meaning_best_first(stub: Stub) -> None:
    who = someone()
    await asyncio.gather(
        *(
            remember(stub, who, content)
            for content in (
                "Quarterly revenue grew by twelve percent.",
                "The database migration finished without errors.",
                "Our cat likes to sleep on the keyboard.",
            )
        )
    )
    matches = await search(stub, who, "Did we earn more money this quarter?")
    assert matches[0].memory.content == "Quarterly revenue grew by twelve percent."
    scores = [match.score for match in matches]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    exact = await search(stub, who, "Our cat likes to sleep on the keyboard.", limit=1)
    assert exact[0].score == pytest.approx(1, abs=1e-3)
    assert exact[0].score <= 1


async def test_search_gives_exactly_as_many_as_asked_when_so_many_match(stub: Stub) -> None:
    tenant = someone().tenant_id
    who = someone(tenant)
    # A small owner among a large one with texts much nearer to the query: an index that filters late would starve it.
    await asyncio.gather(*(remember(stub, who, f"The harvest of apples, report {number}", "big") for number in range(60)))
    await asyncio.gather(*(remember(stub, who, f"Printer manual, page {number}", "small") for number in range(12)))
    assert [len(await search(stub, who, "apple harvest", limit, "small")) for limit in (1, 5, 12, 100)] == [1, 5, 12, 12]
    assert {match.memory.owner for match in await search(stub, who, "apple harvest", 12, "small")} == {"small"}
    assert len(await search(stub, who, "apple harvest")) == 10
    assert len(await search(stub, who, "apple harvest", 72)) == 72
    assert await search(stub, who, "apple harvest", owner="nobody") == []


async def test_another_tenant_finds_lists_gets_and_deletes_nothing(stub: Stub) -> None:
    who, other = someone(), someone()
    stored = await remember(stub, who, "The vault code is 1234.")
    assert await search(stub, other, "The vault code is 1234.") == []
    assert not (await stub.ListMemories(pb.ListMemoriesRequest(), metadata=metadata(other))).memories
    for memory_id in (stored.memory_id, str(uuid.uuid4()), "not-an-id"):
        for call in (
            stub.GetMemory(pb.GetMemoryRequest(memory_id=memory_id), metadata=metadata(other)),
            stub.DeleteMemory(pb.DeleteMemoryRequest(memory_id=memory_id), metadata=metadata(other)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert error_info(caught.value) == ("MEMORY_NOT_FOUND", {"memory_id": memory_id})
    colleague = someone(who.tenant_id, "bob")
    assert (await stub.GetMemory(pb.GetMemoryRequest(memory_id=stored.memory_id), metadata=metadata(colleague))) == stored


async def test_a_deleted_memory_is_gone(stub: Stub) -> None:
    who = someone()
    stored = await remember(stub, who, "forget me")
    await stub.DeleteMemory(pb.DeleteMemoryRequest(memory_id=stored.memory_id), metadata=metadata(who))
    assert await search(stub, who, "forget me") == []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.DeleteMemory(pb.DeleteMemoryRequest(memory_id=stored.memory_id), metadata=metadata(who))
    assert error_info(caught.value)[0] == "MEMORY_NOT_FOUND"


async def test_memories_are_listed_newest_first_page_by_page(stub: Stub) -> None:
    who = someone()
    ids = [(await remember(stub, who, f"text {number}", "even" if number % 2 == 0 else "odd")).memory_id for number in range(6)]
    for owner, expected in (("", ids), ("even", ids[::2])):
        seen, token = [], ""
        while True:
            request = pb.ListMemoriesRequest(page_size=2, page_token=token, owner=owner)
            page = await stub.ListMemories(request, metadata=metadata(who))
            seen += [memory.memory_id for memory in page.memories]
            token = page.next_page_token
            if not token:
                break
        assert seen == list(reversed(expected))


async def test_repeats_with_one_request_id_give_the_first_answer(stub: Stub) -> None:
    who, request_id = someone(), uuid.uuid4().hex
    answers = await asyncio.gather(*(remember(stub, who, "once", request_id=request_id) for _ in range(8)))
    answers.append(await remember(stub, who, "once", request_id=request_id))
    assert len({answer.memory_id for answer in answers}) == 1
    assert len((await stub.ListMemories(pb.ListMemoriesRequest(), metadata=metadata(who))).memories) == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await remember(stub, who, "something else", request_id=request_id)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert error_info(caught.value) == ("REQUEST_ID_REUSED", {"request_id": request_id})
    assert (await remember(stub, someone(), "once", request_id=request_id)).memory_id != answers[0].memory_id


@pytest.mark.parametrize(
    ("memory", "field"),
    [
        (pb.Memory(), "memory.content"),
        (pb.Memory(content="x" * 50_001), "memory.content"),
        (pb.Memory(content="x", owner="o" * 129), "memory.owner"),
    ],
)
async def test_a_wrong_memory_is_refused(stub: Stub, memory: pb.Memory, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateMemory(pb.CreateMemoryRequest(memory=memory), metadata=metadata(someone()))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (caught.value.details() or "")


@pytest.mark.parametrize("limit", [-1, 101])
async def test_a_limit_outside_its_range_is_refused(stub: Stub, limit: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await search(stub, someone(), "anything", limit)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_service_that_may_not_call_is_refused(memory_server: TestServer) -> None:
    stub = pb_grpc.MemoryServiceStub(memory_server.channel("scheduler"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ListMemories(pb.ListMemoriesRequest(), metadata=metadata(someone(), via="scheduler"))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_info(caught.value)[0] == "CALLER_NOT_ALLOWED"
