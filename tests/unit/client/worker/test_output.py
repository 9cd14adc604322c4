"""A task's output: gathered into chunks, sent in order, held back while nothing is answered."""

from __future__ import annotations

import asyncio

import pytest
from guildmesh.scheduler.v1 import worker_service_pb2 as pb
from guildmesh_client.worker.errors import StepRefused
from guildmesh_client.worker.output import MOST_BYTES, Output
from guildmesh_client.worker.stream import Stream


class Scheduler:
    """Takes chunks, and answers them when it is asked to."""

    def __init__(self) -> None:
        self.chunks: list[pb.TaskOutputChunk] = []
        self.told = asyncio.Event()
        self._open: list[asyncio.Future[pb.TaskRefusal | None]] = []

    def tell(self, chunk: pb.TaskOutputChunk) -> asyncio.Future[pb.TaskRefusal | None]:
        self.chunks.append(chunk)
        self._open.append(asyncio.get_running_loop().create_future())
        self.told.set()
        return self._open[-1]

    def answer(self, refusal: pb.TaskRefusal | None = None) -> None:
        self._open.pop(0).set_result(refusal)

    @property
    def texts(self) -> list[str]:
        return [chunk.text for chunk in self.chunks]


async def test_what_comes_within_a_moment_is_one_chunk() -> None:
    scheduler = Scheduler()
    output = Output("t", 3, scheduler.tell)
    for word in ("To ", "be ", "or "):
        await output.write(word)
    assert scheduler.chunks == []
    async with asyncio.timeout(5):
        await scheduler.told.wait()
    assert scheduler.chunks == [pb.TaskOutputChunk(task_id="t", attempt=3, sequence=1, text="To be or ")]


async def test_a_large_text_is_cut_between_characters() -> None:
    scheduler = Scheduler()
    output = Output("t", 1, scheduler.tell)
    text = "ab" + "€" * MOST_BYTES
    await output.write(text)
    output.flush()
    assert "".join(scheduler.texts) == text
    assert [chunk.sequence for chunk in scheduler.chunks] == list(range(1, len(scheduler.chunks) + 1))
    assert all(len(part.encode()) <= MOST_BYTES for part in scheduler.texts)


async def test_a_fast_task_waits_until_what_it_put_out_is_kept() -> None:
    scheduler = Scheduler()
    output = Output("t", 1, scheduler.tell)
    writing = asyncio.create_task(output.write("x" * MOST_BYTES * 20))
    await asyncio.sleep(0)
    assert len(scheduler.chunks) == 8
    assert not writing.done()
    while not writing.done():
        scheduler.answer()
        await asyncio.sleep(0)
    output.flush()
    assert len("".join(scheduler.texts)) == MOST_BYTES * 20


async def test_what_was_gathered_while_nothing_was_answered_goes_with_the_next_answer() -> None:
    scheduler = Scheduler()
    output = Output("t", 1, scheduler.tell)
    await output.write("x" * MOST_BYTES * 8)
    await output.write("late")
    # Longer than it is gathered.
    await asyncio.sleep(0.15)
    assert len(scheduler.chunks) == 8
    scheduler.answer()
    await asyncio.sleep(0)
    assert scheduler.texts[-1] == "late"


async def test_a_task_whose_attempt_is_over_hears_of_it() -> None:
    scheduler = Scheduler()
    output = Output("t", 1, scheduler.tell)
    await output.write("x" * MOST_BYTES)
    scheduler.answer(pb.TaskRefusal(reason="STALE_ATTEMPT", message="it is over"))
    await asyncio.sleep(0)
    with pytest.raises(StepRefused, match="it is over"):
        await output.write("more")
    output.flush()
    assert len(scheduler.chunks) == 1


async def test_text_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        await Output("t", 1, Scheduler().tell).write("\ud800")


async def test_a_step_never_overtakes_the_output_before_it() -> None:
    stream = Stream(pb.WorkerHello())
    step, chunk = pb.TaskStep(task_id="t", step_id="s"), pb.TaskOutputChunk(task_id="t", sequence=1, text="a")
    stream.report([chunk, step, pb.TaskCompletion(task_id="t")])
    stream.end()
    requests = [request async for request in stream.requests()]
    assert [(len(each.outputs), len(each.steps), len(each.completions)) for each in requests] == [(1, 0, 0), (0, 1, 1)]
