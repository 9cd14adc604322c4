"""Dead letters: what failed is listed, replayed once, and dismissed; and it leaves with its task."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.scheduler.v1 import dead_letter_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2

from services.common.context import Principal
from services.common.grpcx.status import error_info
from services.scheduler.storage import dead_letters, replay_choice
from tests.integration.scheduler.conftest import unique
from tests.integration.scheduler.queues.conftest import Client, Tables, ids, refused
from tests.support.service import metadata

MISSING, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
# What the scheduler gives a task, and what is left out of a replay.
NOT_REPEATED = {
    "task_id", "state", "status", "attempt", "error", "last_event_number", "create_time", "start_time", "finish_time",
    "created_by", "replay_of", "parent_task_id", "delay",
}  # fmt: skip


async def dismiss(client: Client, queue: str = "default", filter: str = "") -> tuple[int, int]:
    request = pb.DeleteDeadLettersRequest(queue=queue, filter=filter)
    done = await client.letters.DeleteDeadLetters(request, metadata=metadata(client.user))
    return done.deleted, done.left


async def test_what_failed_is_listed_by_its_queue_and_what_else_ended_is_not(client: Client, tables: Tables) -> None:
    [failed] = await client.fail(1)
    await client.create("other")
    [elsewhere] = await client.fail(1, queue="other")
    cancelled = await client.scheduler.create()
    await client.scheduler.cancel(cancelled.task_id)
    async with client.scheduler.worker() as worker:
        done = await client.scheduler.create()
        await worker.complete(await worker.lease())
    [letter] = await client.listed()
    assert (letter.task_id, letter.tenant_id, letter.queue) == (failed, client.user.tenant_id, "default")
    assert (letter.kind, letter.reason, letter.attempts) == (client.scheduler.kind, "BROKEN", 1)
    assert letter.fail_time == (await client.scheduler.get(failed)).finish_time
    assert (letter.replay_task_id, letter.HasField("replay_time")) == ("", False)
    assert ids(await client.listed("other")) == [elsewhere]
    for unknown in (cancelled.task_id, done.task_id, "no-id"):
        get = client.letters.GetDeadLetter(pb.GetDeadLetterRequest(task_id=unknown), metadata=metadata(client.user))
        assert await refused(get) == (MISSING, "DEAD_LETTER_NOT_FOUND")
    tables.sound()


async def test_every_way_to_fail_makes_a_dead_letter(client: Client, tables: Tables) -> None:
    parent = await client.scheduler.create(kind=unique("nobody"), total_timeout=timedelta(seconds=1))
    child = await client.scheduler.create(kind=unique("nobody"), parent_task_id=parent.task_id)
    lost = await client.scheduler.create(max_attempts=1)
    async with client.scheduler.worker() as worker:
        await worker.lease()
    await client.scheduler.watch(parent.task_id)
    await client.scheduler.watch(lost.task_id)
    assert {letter.task_id: letter.reason for letter in await client.listed()} == {
        parent.task_id: "DEADLINE_EXCEEDED",
        lost.task_id: "WORKER_LOST",
    }
    assert (await client.scheduler.get(child.task_id)).status == "cancelled"
    tables.sound()


async def test_pages_have_each_once_the_latest_first_and_a_filter_chooses(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = await client.fail(7)
    other = await client.fail(2, reason="TIMEOUT")
    await client.replay(failed[0])
    every = [*failed, *other][::-1]
    for looked_at in (5000, 3):
        # However little a page looks at.
        monkeypatch.setattr(dead_letters, "_LIST", dead_letters._LIST.replace(str(dead_letters.LOOKED_AT), str(looked_at)))
        for size in (1, 2, 4, 200):
            assert ids(await client.listed(page_size=size)) == every
            assert ids(await client.listed(page_size=size, filter="reason = TIMEOUT")) == other[::-1]
    assert ids(await client.listed(filter="reason != TIMEOUT AND replayed = false")) == failed[:0:-1]
    assert ids(await client.listed(filter="replayed = true")) == failed[:1]
    assert await client.listed(filter=f'kind = "{client.scheduler.kind}" AND attempts > 1') == []
    moment = (await client.listed())[0].fail_time.ToJsonString()
    assert ids(await client.listed(filter=f'fail_time >= "{moment}"')) == every[:1]
    assert ids(await client.listed(filter=f'fail_time < "{moment}"')) == every[1:]
    for wrong in ("state = FAILED", "replayed = maybe", "replayed != true", "fail_time = x", "reason ="):
        assert await refused(client.listed(filter=wrong)) == (INVALID, "INVALID_FILTER")
    first = await client.letters.ListDeadLetters(
        pb.ListDeadLettersRequest(queue="default", page_size=1), metadata=metadata(client.user)
    )
    strange = pb.ListDeadLettersRequest(queue="code", page_token=first.next_page_token)
    call = client.letters.ListDeadLetters(strange, metadata=metadata(client.user))
    assert await refused(call) == (INVALID, "INVALID_PAGE_TOKEN")
    nowhere = client.letters.ListDeadLetters(pb.ListDeadLettersRequest(), metadata=metadata(client.user))
    assert (await refused(nowhere))[0] is INVALID


async def test_a_replay_is_like_the_failed_task_and_says_of_which(client: Client, tables: Tables) -> None:
    policy = task_pb2.RetryPolicy(non_retryable_reasons=["BROKEN"])
    wanted: dict[str, Any] = {
        "priority": 9, "max_attempts": 4, "context": {"city": "Bonn", "n": [1, 2]}, "labels": {"team": "a"},
        "timeout": timedelta(seconds=60), "delay": timedelta(milliseconds=1), "retry_policy": policy,
    }  # fmt: skip
    [task_id] = await client.fail(1, **wanted)
    bob = Principal("bob", client.user.tenant_id, frozenset({"user"}))
    replay = await client.replay(task_id, bob)
    failed = await client.scheduler.get(task_id)
    assert (replay.replay_of, replay.status, replay.created_by, replay.attempt) == (task_id, "pending", "bob", 0)
    before, after = (MessageToDict(task, preserving_proto_field_name=True) for task in (failed, replay))
    assert {key: value for key, value in before.items() if key not in NOT_REPEATED} == {
        key: value for key, value in after.items() if key not in NOT_REPEATED
    }
    assert await client.scheduler.get(replay.task_id) == replay
    [letter] = await client.listed()
    assert (letter.replay_task_id, letter.HasField("replay_time")) == (replay.task_id, True)
    async with client.scheduler.worker() as worker:
        lease = await worker.lease()
        assert (lease.task.replay_of, lease.task.context["city"]) == (task_id, "Bonn")
        # A replay that fails is a dead letter of its own.
        await worker.fail(lease, retryable=False)
    assert ids(await client.listed()) == [replay.task_id, task_id]
    second = await client.replay(replay.task_id)
    assert second.replay_of == replay.task_id
    tables.sound()


async def test_a_caller_cannot_say_of_which_task_its_own_is_a_replay(client: Client) -> None:
    assert (await client.scheduler.create(replay_of="01990000-0000-7000-8000-000000000000")).replay_of == ""


async def test_a_replay_has_no_parent_and_no_deadline_that_is_over(client: Client) -> None:
    soon, late = Timestamp(), Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(seconds=1))
    late.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    parent = await client.scheduler.create(kind=unique("nobody"))
    task = await client.scheduler.create(kind=unique("nobody"), parent_task_id=parent.task_id, deadline=soon)
    await client.scheduler.watch(task.task_id)
    await client.scheduler.cancel(parent.task_id)
    replay = await client.replay(task.task_id)
    assert (replay.parent_task_id, replay.HasField("deadline"), replay.status) == ("", False, "pending")
    [task_id] = await client.fail(1, deadline=late)
    assert (await client.replay(task_id)).deadline == late


async def test_a_task_is_replayed_once_unless_it_is_asked_for_again(client: Client, tables: Tables) -> None:
    [task_id] = await client.fail(1)
    first = await client.replay(task_id)
    assert await client.replay(task_id) == first
    assert await client.replay(task_id.upper(), request_id="x") == first
    again = await client.replay(task_id, again=True, request_id="twice")
    assert again.task_id != first.task_id
    assert (await client.replay(task_id, again=True, request_id="twice")).task_id == again.task_id
    # The request ids of CreateTask are others.
    own = await client.scheduler.create(request_id="twice")
    assert own.task_id != again.task_id
    assert (await client.replay(task_id, again=True)).task_id not in (first.task_id, again.task_id)
    ended = await client.scheduler.cancel(first.task_id)
    for unfit, status in ((ended, "cancelled"), (own, "pending")):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.replay(unfit.task_id)
        assert error_info(error.value) == ("TASK_NOT_FAILED", {"task_id": unfit.task_id, "status": status})
    for unknown in ("nothing", "01990000-0000-7000-8000-000000000000"):
        assert await refused(client.replay(unknown)) == (MISSING, "TASK_NOT_FOUND")
    tables.query("UPDATE dead_letters SET replay_task_id = gen_random_uuid() WHERE task_id = %s", task_id)
    assert await refused(client.replay(task_id)) == (FAILED_PRECONDITION, "REPLAY_NOT_KEPT")


async def test_five_hundred_replays_at_once_make_one_task(client: Client, tables: Tables) -> None:
    [task_id] = await client.fail(1)
    made = await asyncio.gather(*(client.replay(task_id) for _ in range(500)))
    assert len({replay.task_id for replay in made}) == 1
    assert tables.one("SELECT count(*) FROM tasks WHERE tenant_id = %s", client.user.tenant_id) == 1
    tables.sound()


async def test_many_are_replayed_call_by_call_each_once_the_oldest_first(
    client: Client, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = await client.fail(9, context={"text": "x" * 100})
    other = await client.fail(2, reason="TIMEOUT")
    await client.replay(failed[2])
    left = [task_id for task_id in failed if task_id != failed[2]]
    filter = "reason = BROKEN"
    done = await client.replay_many(filter=filter, limit=3)
    assert ([replay.task_id for replay in done.replays], done.left) == (left[:3], 5)
    assert (await client.scheduler.get(done.replays[0].replay_task_id)).replay_of == left[0]
    # As many as are not too large together, and one at least.
    monkeypatch.setattr(replay_choice, "BYTES", 1)
    done = await client.replay_many(filter=filter)
    assert ([replay.task_id for replay in done.replays], done.left) == (left[3:4], 4)
    monkeypatch.undo()
    # Two callers share the work.
    both = await asyncio.gather(client.replay_many(filter=filter), client.replay_many(filter=filter))
    assert sorted(replay.task_id for done in both for replay in done.replays) == sorted(left[4:])
    assert min(done.left for done in both) == 0
    done = await client.replay_many(filter=filter)
    assert (list(done.replays), done.left) == ([], 0)
    made = [letter.replay_task_id for letter in await client.listed()]
    assert len(set(made) - {""}) == 9
    assert ids(await client.listed(filter="replayed = false")) == other[::-1]
    tables.sound()


async def fail_graph(client: Client, number: int) -> list[str]:
    """A task, and others of which each waits for the one before, fail with the first; gives their ids in this order."""
    made = [await client.scheduler.create("0", by=client.user)]
    for place in range(1, number):
        needs = [task_pb2.TaskDependency(task_id=made[-1].task_id, name="before" if place % 2 else "")]
        made.append(await client.scheduler.create(str(place), dependencies=needs, by=client.user))
    async with client.scheduler.worker() as worker:
        await worker.fail(await worker.lease(), retryable=False)
    return [task.task_id for task in made]


async def until_nothing_is_left(client: Client, **fields: Any) -> dict[str, str]:
    """Replays call by call as the guide says; gives each replay by the task that it repeats, in the order they were made."""
    told: dict[str, str] = {}
    left, more = 1, dict(fields)
    while left:
        done = await client.replay_many(**more)
        assert not told.keys() & {replay.task_id for replay in done.replays}
        told |= {replay.task_id: replay.replay_task_id for replay in done.replays}
        left, more["failed_before"] = done.left, done.failed_before
    return told


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_a_graph_that_failed_runs_again_in_its_order_however_many_calls_replay_it(
    client: Client, tables: Tables, limit: int
) -> None:
    failed = await fail_graph(client, 4)
    told = await until_nothing_is_left(client, limit=limit)
    assert list(told) == failed
    for place, task_id in enumerate(failed):
        replay = await client.scheduler.get(told[task_id], by=client.user)
        assert [each.task_id for each in replay.dependencies] == [told[needed] for needed in failed[:place][-1:]]
        assert replay.status == ("blocked" if place else "pending")
    async with client.scheduler.worker() as worker:
        for place, task_id in enumerate(failed):
            lease = await worker.lease()
            assert lease.task.task_id == told[task_id]
            # Its worker finds what it needs by the name that it knows.
            named = [] if not place else [("before" if place % 2 else failed[place - 1], float(place - 1))]
            assert [(end.name, end.result.number_value) for end in lease.dependencies] == named
            await worker.complete(lease, place)
    tables.sound()


async def test_replaying_until_nothing_is_left_ends_though_all_fails_anew(client: Client, tables: Tables) -> None:
    failed = await fail_graph(client, 3)
    async with client.scheduler.worker() as worker:

        async def fail_each() -> None:
            while True:
                await worker.fail(await worker.lease(), retryable=False)

        failing = asyncio.create_task(fail_each())
        done = await client.replay_many(limit=1)
        first = done.replays[0].replay_task_id
        await client.scheduler.watch(first)
        # What failed anew is older than what is left is replayed, and is not meant.
        told = await until_nothing_is_left(client, limit=1, failed_before=done.failed_before)
        assert [done.replays[0].task_id, *told] == failed
        for replay_id in told.values():
            assert (await client.scheduler.watch(replay_id))[-1].failed.reason == "DEPENDENCY_FAILED"
        anew = [first, *told.values()]
        assert sorted(ids(await client.listed(filter="replayed = false"))) == sorted(anew)
        # They are for the next who replays, each behind the newest of what it depends on.
        again = await until_nothing_is_left(client)
        assert next(iter(again)) == first
        assert sorted(again) == sorted(anew)
        failing.cancel()
    tables.sound()


async def test_what_failed_before_its_dependency_is_replayed_behind_it(client: Client, tables: Tables) -> None:
    first = await client.scheduler.create(by=client.user)
    needs = [task_pb2.TaskDependency(task_id=first.task_id)]
    second = await client.scheduler.create("after", dependencies=needs, total_timeout=timedelta(seconds=1), by=client.user)
    await client.scheduler.watch(second.task_id)
    async with client.scheduler.worker() as worker:
        await worker.fail(await worker.lease(), retryable=False)
    assert ids(await client.listed()) == [first.task_id, second.task_id]
    assert list(await until_nothing_is_left(client, limit=1)) == [first.task_id, second.task_id]
    tables.sound()


async def test_what_the_filter_leaves_out_stays_failed_and_what_needs_it_fails_at_once(client: Client, tables: Tables) -> None:
    first, second = await fail_graph(client, 2)
    told = await until_nothing_is_left(client, filter="reason = DEPENDENCY_FAILED", limit=1)
    again = await client.scheduler.get(told[second], by=client.user)
    assert (list(told), again.status, again.error.reason) == ([second], "failed", "DEPENDENCY_FAILED")
    assert set(ids(await client.listed(filter="replayed = false"))) == {first, again.task_id}
    # Then all of it: what stands for the second depends on what stands for the first.
    both = await until_nothing_is_left(client)
    assert list(both) == [first, again.task_id]
    last = await client.scheduler.get(both[again.task_id], by=client.user)
    assert [each.task_id for each in last.dependencies] == [both[first]]
    # One that is not kept any more is done without, as its dependant might be.
    tables.query("UPDATE dead_letters SET replay_task_id = gen_random_uuid() WHERE task_id = %s", first)
    assert list((await client.replay(again.task_id, again=True)).dependencies) == []
    tables.query("UPDATE dead_letters SET replay_task_id = %s WHERE task_id = %s", both[first], first)


async def test_one_replayed_again_is_the_same_for_a_repeat_though_its_dependency_was_replayed(
    client: Client, tables: Tables
) -> None:
    first, second = await fail_graph(client, 2)
    again = await client.replay(second, again=True, request_id="twice")
    await client.replay(first)
    assert (await client.replay(second, again=True, request_id="twice")).task_id == again.task_id
    tables.sound()


async def test_only_what_failed_before_a_moment_is_replayed(client: Client) -> None:
    failed = await client.fail(3)
    letters = {letter.task_id: letter for letter in await client.listed()}
    done = await client.replay_many(failed_before=letters[failed[2]].fail_time)
    assert [replay.task_id for replay in done.replays] == failed[:2]
    assert (done.left, done.failed_before) == (0, letters[failed[2]].fail_time)
    done = await client.replay_many(failed_before=Timestamp(seconds=250_000_000_000))
    assert [replay.task_id for replay in done.replays] == failed[2:]
    assert done.failed_before.ToDatetime(UTC) < datetime.now(UTC) + timedelta(minutes=1)
    assert (await refused(client.replay_many(failed_before=Timestamp(seconds=10**12))))[0] is INVALID


async def test_a_replay_whose_queue_is_gone_changes_nothing(client: Client, tables: Tables) -> None:
    await client.create("q")
    [task_id] = await client.fail(1, queue="q")
    await client.delete("q")
    gone = (MISSING, "QUEUE_NOT_FOUND")
    assert await refused(client.replay(task_id)) == gone
    assert await refused(client.replay_many("q")) == gone
    assert ids(await client.listed("q", "replayed = false")) == [task_id]
    await client.create("q")
    assert len((await client.replay_many("q")).replays) == 1
    tables.sound()


async def test_dismissed_ones_are_not_listed_or_replayed_with_others_and_their_tasks_stay(client: Client, tables: Tables) -> None:
    failed = await client.fail(3)
    other = await client.fail(1, reason="TIMEOUT")
    assert await dismiss(client, filter="reason = BROKEN") == (3, 0)
    assert await dismiss(client, filter="reason = BROKEN") == (0, 0)
    assert ids(await client.listed()) == other
    assert [replay.task_id for replay in (await client.replay_many()).replays] == other
    assert (await client.replay(failed[0])).replay_of == failed[0]
    get = client.letters.GetDeadLetter(pb.GetDeadLetterRequest(task_id=failed[0]), metadata=metadata(client.user))
    assert await refused(get) == (MISSING, "DEAD_LETTER_NOT_FOUND")
    tables.sound()


async def test_a_failed_task_is_kept_as_its_queue_says_when_it_fails(client: Client, tables: Tables) -> None:
    await client.create("q", retention_days=1)
    task = await client.scheduler.create(queue="q")
    await client.update("q", dead_letter_retention_days=90)
    async with client.scheduler.worker() as worker:
        await worker.fail(await worker.lease(), retryable=False)
        await client.scheduler.create(queue="q")
        await worker.complete(await worker.lease())
        await client.update("q", "dead_letter_retention_days")
        await client.scheduler.create(queue="q")
        await worker.fail(await worker.lease(), retryable=False)
    kept = tables.query(
        "SELECT state, retention_days FROM finished_tasks WHERE tenant_id = %s ORDER BY task_id", client.user.tenant_id
    )
    assert kept == [(4, 90), (3, 1), (4, 1)]
    told = tables.query("SELECT retention_days FROM dead_letters WHERE tenant_id = %s ORDER BY fail_time", client.user.tenant_id)
    assert told == [(90,), (1,)]
    assert (await client.scheduler.get(task.task_id)).status == "failed"
    tables.sound()


async def test_a_tenant_sees_and_replays_only_its_own(client: Client, tables: Tables) -> None:
    [task_id] = await client.fail(1)
    bob = Principal("bob", unique("globex"), frozenset({"admin"}))
    assert await client.listed(by=bob) == []
    assert await refused(client.replay(task_id, bob)) == (MISSING, "TASK_NOT_FOUND")
    get = client.letters.GetDeadLetter(pb.GetDeadLetterRequest(task_id=task_id), metadata=metadata(bob))
    assert await refused(get) == (MISSING, "DEAD_LETTER_NOT_FOUND")
    for method, request in (
        ("ReplayDeadLetters", pb.ReplayDeadLettersRequest(queue="default")),
        ("DeleteDeadLetters", pb.DeleteDeadLettersRequest(queue="default")),
    ):
        assert (await getattr(client.letters, method)(request, metadata=metadata(bob))).left == 0
    assert ids(await client.listed(filter="replayed = false")) == [task_id]
    enter = f"SET LOCAL guildmesh.tenant = '{bob.tenant_id}';"
    assert tables.query(f"{enter} UPDATE dead_letters SET attempts = 9 RETURNING 1", role="scheduler_api") == []


async def test_a_task_that_a_scheduler_of_before_failed_can_be_replayed(client: Client, tables: Tables) -> None:
    [task_id] = await client.fail(1)
    tables.query("DELETE FROM dead_letters WHERE task_id = %s", task_id)
    made = await asyncio.gather(*(client.replay(task_id) for _ in range(5)))
    assert len({replay.task_id for replay in made}) == 1
    tables.sound()


async def test_a_replay_is_handed_what_its_task_depended_on_and_does_without_what_is_not_kept(
    client: Client, tables: Tables
) -> None:
    first, second = await client.scheduler.create("first"), await client.scheduler.create("second")
    async with client.scheduler.worker() as worker:
        for _ in range(2):
            await worker.complete(await worker.lease())
    dependencies = [task_pb2.TaskDependency(task_id=task.task_id) for task in (first, second)]
    failed = await client.fail(2, dependencies=dependencies)
    # As if it had left: the tables are those of other tests, too.
    move = "UPDATE finished_tasks SET tenant_id = %s WHERE task_id = %s"
    tables.query(move, unique("gone"), second.task_id)
    try:
        one = await client.replay(failed[0])
        done = await client.replay_many()
    finally:
        tables.query(move, client.user.tenant_id, second.task_id)
    assert [dependency.task_id for dependency in one.dependencies] == [first.task_id]
    assert ([replay.task_id for replay in done.replays], done.left) == (failed[1:], 0)
    async with client.scheduler.worker() as worker:
        for _ in range(2):
            lease = await worker.lease()
            assert [(end.task_id, end.state) for end in lease.dependencies] == [(first.task_id, task_pb2.TASK_STATE_COMPLETED)]
            await worker.complete(lease)
    tables.sound()
