from __future__ import annotations

import pytest
from guildmesh_client import batch
from guildmesh_client.batch import Batch


async def test_a_request_is_in_the_message_until_it_is_taken_back() -> None:
    call = Batch()
    call.draft().request_id = "stays"
    future = call.add(10)
    call.draft().request_id = "goes"
    assert call.take_back().request_id == "goes"
    assert [request.request_id for request in call.message.requests] == ["stays"]
    assert call.close() == [future]


async def test_what_was_given_up_is_left_out_and_the_rest_keeps_its_order() -> None:
    call = Batch()
    futures = []
    for name in "abcde":
        call.draft().request_id = name
        futures.append(call.add(1))
    futures[0].cancel()
    futures[3].cancel()
    assert call.close() == [futures[1], futures[2], futures[4]]
    assert [request.request_id for request in call.message.requests] == ["b", "c", "e"]


async def test_a_batch_is_full_by_number_and_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_MOST_TASKS", 2)
    monkeypatch.setattr(batch, "_MOST_BYTES", 100)
    call = Batch()
    assert call.takes(1_000)
    call.draft()
    call.add(60)
    assert call.takes(40)
    assert not call.takes(41)
    assert not call.full
    call.draft()
    call.add(40)
    assert call.full
