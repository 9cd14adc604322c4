"""What of a user's text is on Kafka: none of it, all of it, or what there is room for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from guildmesh.events.v1.dead_letter_pb2 import TaskDeadLettered
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh_client.event_keys import EventKeys
from guildmesh_client.worker import Task

from services.embedded.data_check import check_data
from services.scheduler.bootstrap import open_service
from services.scheduler.relay.settings import RelaySettings
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.event_content.conftest import (
    ENCRYPTED,
    LAST,
    OMIT,
    PLAIN,
    World,
    a_master_key,
    everything_of,
    write_everywhere,
)
from tests.integration.scheduler.test_watch_tasks import Stream
from tests.support.service import metadata, running


async def test_omit_leaves_no_byte_of_a_text_on_kafka_and_all_of_it_with_the_task(world: World) -> None:
    scheduler, marker = world.scheduler, unique("marker")
    queue = await world.queue(OMIT)
    stream = await Stream(scheduler).open()
    made = await write_everywhere(world, queue, marker)
    events, states = await world.records(4)
    assert marker.encode() not in everything_of(events + states + world.dead_letters)
    [letter] = [TaskDeadLettered.FromString(r.value) for r in world.dead_letters]
    assert (letter.task_id, letter.message_size_bytes) == (made["fail"], len(marker))
    kinds = {TaskEvent.FromString(r.value).WhichOneof("change") for r in events if TaskEvent.FromString(r.value).content}
    assert kinds == {
        "created", "step_completed", "retried", "completed", "failed", "cancelled", "waiting", "signalled", "output",
        "tool_returned",
    }  # fmt: skip
    # Who watches gets the log's own events, though they come from the topic.
    seen = await stream.until(lambda seen: sum(event.WhichOneof("change") in LAST for event in seen) >= 4)
    logged = {task_id: await scheduler.watch(task_id) for task_id in made.values()}
    for task_id, whole in logged.items():
        assert [event for event in seen if event.task_id == task_id] == whole
        assert not any(event.content for event in whole)
        told = [TaskEvent.FromString(r.value) for r in events if r.key.decode() == task_id]
        assert [(e.number, e.WhichOneof("change"), e.actor) for e in told] == [
            (e.number, e.WhichOneof("change"), e.actor) for e in whole
        ]
        for event, full in zip(told, whole, strict=True):
            assert bool(event.content) == (marker.encode() in full.SerializeToString())
    first = TaskEvent.FromString(next(r.value for r in events if r.key.decode() == made["fail"]))
    text = f"{marker} fail".encode()
    assert (first.created.description_size_bytes, first.created.omitted_labels) == (len(text), 2)
    assert first.created.description_sha256 == hashlib.sha256(text).hexdigest()
    assert (await scheduler.get(made["complete"])).result.list_value[0] == marker
    # Another queue of the same mesh says all.
    await scheduler.cancel((await scheduler.create(marker, kind="nobody")).task_id)
    assert marker.encode() in everything_of((await world.records(5))[0])


async def test_a_stricter_queue_holds_for_the_coming_events_of_open_tasks(world: World) -> None:
    scheduler, markers = world.scheduler, [unique("marker") for _ in range(3)]
    queue = await world.queue(PLAIN)
    task = await scheduler.create(markers[0], queue=queue, kind="nobody")
    await world.change(queue, ENCRYPTED)
    second = await scheduler.create(markers[1], queue=queue, kind="nobody")
    await scheduler.cancel(task.task_id, markers[2])
    await scheduler.cancel(second.task_id, markers[2])
    await world.change(queue, PLAIN)
    records, states = await world.records(2)
    told = everything_of(records + states)
    assert markers[0].encode() in told
    assert markers[1].encode() not in told
    assert markers[2].encode() not in told
    mine = [TaskEvent.FromString(r.value) for r in records if r.key.decode() == task.task_id]
    assert [(e.content, e.data_key_id) for e in mine] == [(0, ""), (ENCRYPTED, "")], "it has no key"
    theirs = [TaskEvent.FromString(r.value) for r in records if r.key.decode() == second.task_id]
    assert [e.content for e in theirs] == [ENCRYPTED, ENCRYPTED]
    reader = EventKeys(scheduler.channel, metadata(world.admin))
    assert (await reader.open(theirs[1])).cancelled.cause == markers[2]


async def test_a_large_result_is_read_where_the_record_says(world: World) -> None:
    scheduler, text = world.scheduler, "x" * (100 << 10)

    async def work(task: Task) -> Any:
        async def look() -> Any:
            return text

        await task.step("look", look)
        return text

    stream = await Stream(scheduler, filter=f"kind = {scheduler.kind}").open()
    async with world.working(work):
        task = await scheduler.create()
        whole = await scheduler.watch(task.task_id)
    seen = await stream.until(lambda seen: len(seen) >= len(whole))
    assert seen == whole
    records, _ = await world.records(1)
    last = TaskEvent.FromString(records[-1].value)
    assert len(records[-1].value) < 1000
    assert (last.content, last.completed.reference) == (OMIT, f"/v1/tasks/{task.task_id}")
    [(result,)] = world.query("SELECT result FROM finished_tasks")
    assert (last.completed.result_size_bytes, last.completed.result_sha256) == (len(result), hashlib.sha256(result).hexdigest())


async def test_what_waits_for_kafka_is_found_sound_and_what_is_not_the_log_s_is_found(
    own_settings: MakeSettings,
    scheduler_tls: Path,
    empty_database_url: str,
) -> None:
    settings = own_settings(event_master_key=a_master_key())
    async with running(open_service, settings, scheduler_tls) as server:
        scheduler = Scheduler(server)
        world = World(scheduler, RelaySettings(_env_file=None), empty_database_url, settings)

        async def work(task: Task) -> Any:
            return "x" * int(task.description)

        async with world.working(work):
            for content in (PLAIN, OMIT, ENCRYPTED):
                queue = await world.queue(content)
                for size in ("7", "100000"):
                    await scheduler.watch((await scheduler.create(size, queue=queue)).task_id)
        world.sound()
    [(row, payload)] = world.query("SELECT position, payload FROM outbox ORDER BY position DESC LIMIT 1")
    told = bytes(payload)
    assert told.count(b"\x68\x03\xc2\x01") == 1, "it says that its content is encrypted"
    # The completed event says another size than the log's has.
    size = told.index(b"\x68\x03\xc2\x01") + len(b"\x68\x03\xc2\x01") + 2
    other = told[:size] + bytes([told[size] ^ 1]) + told[size + 1 :]
    world.query("UPDATE outbox SET payload = %s WHERE position = %s RETURNING 1", other, row)
    problems = [text for finding in check_data(empty_database_url) for text in finding.problems]
    assert any("is not what its log has" in problem for problem in problems), problems
