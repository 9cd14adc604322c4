"""Conversations over mutual TLS and a real database."""

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


def said(*contents: str) -> list[pb.Message]:
    return [pb.Message(role="user", content=content) for content in contents]


async def start(stub: Stub, who: Principal, *contents: str, title: str = "") -> str:
    request = pb.AppendMessagesRequest(conversation_id="-", messages=said(*contents), title=title)
    answer = await stub.AppendMessages(request, metadata=metadata(who))
    assert [message.number for message in answer.messages] == list(range(1, len(contents) + 1))
    return answer.conversation_id


async def all_messages(stub: Stub, who: Principal, conversation_id: str, page_size: int = 200) -> list[pb.Message]:
    messages: list[pb.Message] = []
    token = ""
    while True:
        request = pb.ListMessagesRequest(conversation_id=conversation_id, page_size=page_size, page_token=token)
        page = await stub.ListMessages(request, metadata=metadata(who))
        messages += page.messages
        token = page.next_page_token
        if not token:
            return messages


async def test_a_conversation_is_created_and_continued(stub: Stub) -> None:
    who = someone()
    request = pb.CreateConversationRequest(conversation=pb.Conversation(title="Plans"))
    created = await stub.CreateConversation(request, metadata=metadata(who))
    assert (created.title, created.username) == ("Plans", "ada")
    details = Struct()
    details.update({"model": "local", "tokens": 3, "nested": {"list": [1, 2.5, None, True, "ü"]}})
    request_append = pb.AppendMessagesRequest(
        conversation_id=created.conversation_id,
        messages=[pb.Message(role="user", content="Hello"), pb.Message(role="assistant", content="", metadata=details)],
    )
    answer = await stub.AppendMessages(request_append, metadata=metadata(who))
    assert [(message.number, message.role, message.content) for message in answer.messages] == [
        (1, "user", "Hello"),
        (2, "assistant", ""),
    ]
    listed = await all_messages(stub, who, created.conversation_id)
    assert listed == list(reversed(answer.messages))
    assert listed[0].metadata == details
    request_get = pb.GetConversationRequest(conversation_id=created.conversation_id)
    found = await stub.GetConversation(request_get, metadata=metadata(who))
    assert found.update_time == answer.messages[1].create_time
    assert found.update_time.ToNanoseconds() > created.update_time.ToNanoseconds()


async def test_concurrent_appends_number_messages_without_gap_or_repeat(stub: Stub) -> None:
    who = someone()
    conversation_id = await start(stub, who, "first")

    async def append(number: int) -> list[int]:
        messages = said(*(f"{number}.{part}" for part in range(3)))
        request = pb.AppendMessagesRequest(conversation_id=conversation_id, messages=messages)
        answer = await stub.AppendMessages(request, metadata=metadata(who))
        return [message.number for message in answer.messages]

    numbers = await asyncio.gather(*map(append, range(20)))
    assert sorted(number for group in numbers for number in group) == list(range(2, 62))
    assert all(group == list(range(group[0], group[0] + 3)) for group in numbers)
    listed = await all_messages(stub, who, conversation_id, page_size=7)
    assert [message.number for message in listed] == list(range(61, 0, -1))


async def test_conversations_are_listed_newest_first_to_their_owner_only(stub: Stub) -> None:
    who = someone()
    colleague = someone(who.tenant_id, "bob")
    mine = [await start(stub, who, "hi", title=f"number {number}") for number in range(5)]
    await start(stub, colleague, "hi")
    seen, token = [], ""
    while True:
        page = await stub.ListConversations(pb.ListConversationsRequest(page_size=2, page_token=token), metadata=metadata(who))
        seen += [conversation.conversation_id for conversation in page.conversations]
        token = page.next_page_token
        if not token:
            break
    assert seen == list(reversed(mine))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        page = await stub.ListConversations(pb.ListConversationsRequest(page_size=2), metadata=metadata(who))
        request = pb.ListConversationsRequest(page_token=page.next_page_token)
        await stub.ListConversations(request, metadata=metadata(colleague))
    assert error_info(caught.value)[0] == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize("stranger", [None, "bob"], ids=["another tenant", "another user"])
async def test_a_conversation_of_someone_else_looks_unknown(stub: Stub, stranger: str | None) -> None:
    who = someone()
    other = someone(who.tenant_id, stranger) if stranger else someone()
    theirs = await start(stub, who, "secret")
    for conversation_id in (theirs, str(uuid.uuid4()), "not-an-id", "x" * 64):
        calls = (
            stub.GetConversation(pb.GetConversationRequest(conversation_id=conversation_id), metadata=metadata(other)),
            stub.ListMessages(pb.ListMessagesRequest(conversation_id=conversation_id), metadata=metadata(other)),
            stub.AppendMessages(
                pb.AppendMessagesRequest(conversation_id=conversation_id, messages=said("me")), metadata=metadata(other)
            ),
        )
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert error_info(caught.value) == ("CONVERSATION_NOT_FOUND", {"conversation_id": conversation_id})
    assert len(await all_messages(stub, who, theirs)) == 1


async def test_an_agent_appends_on_behalf_of_its_user(memory_server: TestServer) -> None:
    who = someone()
    agent = pb_grpc.MemoryServiceStub(memory_server.channel("agent"))
    answer = await agent.AppendMessages(
        pb.AppendMessagesRequest(conversation_id="-", messages=said("hi")), metadata=metadata(who, via="agent")
    )
    gateway = pb_grpc.MemoryServiceStub(memory_server.channel())
    assert len(await all_messages(gateway, who, answer.conversation_id)) == 1


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        ([pb.Message(content="no role")], "messages[0].role"),
        ([pb.Message(role="king")], "messages[0].role"),
        ([pb.Message(role="user", content="x" * 50_001)], "messages[0].content"),
        ([pb.Message(role="user", content="a\0b")], "messages[0].content"),
    ],
)
async def test_wrong_messages_are_refused_and_nothing_is_stored(stub: Stub, messages: list[pb.Message], field: str) -> None:
    who = someone()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        request = pb.AppendMessagesRequest(conversation_id="-", messages=messages)
        await stub.AppendMessages(request, metadata=metadata(who))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (caught.value.details() or "")
    listed = await stub.ListConversations(pb.ListConversationsRequest(), metadata=metadata(who))
    assert not listed.conversations


async def test_metadata_that_json_cannot_hold_is_refused(stub: Stub) -> None:
    details = Struct()
    details.fields["x"].number_value = float("nan")
    request = pb.AppendMessagesRequest(conversation_id="-", messages=[pb.Message(role="user", metadata=details)])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.AppendMessages(request, metadata=metadata(someone()))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "messages[0].metadata" in (caught.value.details() or "")
