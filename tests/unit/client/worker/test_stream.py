from __future__ import annotations

import asyncio

from guildmesh.scheduler.v1 import worker_service_pb2 as pb
from guildmesh_client.worker.stream import Stream


async def test_what_is_offered_when_a_message_is_made_travels_with_it() -> None:
    stream: Stream
    room = [2, 0, 3]

    def offer() -> None:
        if room and (free := room.pop(0)):
            stream.give_credits(free)

    stream = Stream(pb.WorkerHello(), offer)
    messages = stream.requests()
    assert (await anext(messages)).credits == 2
    stream.report([pb.TaskCompletion(task_id="a")])
    stream.end()
    # The one that was asked for before had nothing to give; this one comes by the report.
    assert [(len(message.completions), message.credits) async for message in messages] == [(1, 0), (0, 3)]


async def test_a_wake_has_an_offer_made_with_nothing_else_to_tell() -> None:
    stream: Stream
    room = [0, 0, 1]

    def offer() -> None:
        if free := room.pop(0):
            stream.give_credits(free)

    stream = Stream(pb.WorkerHello(), offer)
    messages = stream.requests()
    assert (await anext(messages)).credits == 0
    stream.wake()
    assert (await anext(messages)).credits == 1


async def test_a_closed_stream_has_no_next_message_and_nobody_waits_for_one() -> None:
    stream = Stream(pb.WorkerHello())
    requests = stream.requests()
    await anext(requests)
    waiting = asyncio.ensure_future(anext(requests, None))
    await asyncio.sleep(0)
    stream.give_credits(3)
    stream.close()
    assert await waiting is None
