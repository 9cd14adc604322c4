"""Queues as a resource: who may change which, and what they are created with and changed to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import psycopg2
import pytest
from guildmesh.scheduler.v1 import queue_pb2, scheduler_service_pb2, task_pb2
from guildmesh.scheduler.v1 import queue_service_pb2 as pb

from services.common.context import Principal
from services.common.grpcx.status import error_info
from services.scheduler.storage import queues
from tests.integration.scheduler.conftest import unique
from tests.integration.scheduler.queues.conftest import Client, Tables, refused
from tests.support.service import metadata

ALREADY, MISSING = grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.NOT_FOUND
FORBIDDEN, INVALID = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT


async def names(client: Client, by: Principal) -> list[tuple[str, bool]]:
    answer = await client.scheduler.stub.ListQueues(scheduler_service_pb2.ListQueuesRequest(), metadata=metadata(by))
    return [(queue.queue, queue.shared) for queue in answer.queues]


async def test_a_queue_has_its_defaults_and_all_that_was_asked_for(client: Client) -> None:
    plain = await client.create("plain")
    assert (plain.priority, plain.paused, plain.shared) == (5, False, False)
    unset = ("max_running", "max_running_per_key", "rate_limit", "max_attempts", "retry_policy", "retention_days")
    assert not any(plain.HasField(name) for name in (*unset, "dead_letter_retention_days"))  # type: ignore[arg-type]
    policy = task_pb2.RetryPolicy(initial_backoff=timedelta(seconds=2), non_retryable_reasons=["BAD_INPUT"])
    wanted: dict[str, Any] = {
        "priority": 9, "max_running": 10, "max_running_per_key": 2, "max_attempts": 3, "retention_days": 0,
        "dead_letter_retention_days": 90, "rate_limit": queue_pb2.QueueRateLimit(per_second=2.5), "retry_policy": policy,
    }  # fmt: skip
    queue = await client.create("reports", **wanted)
    assert (queue.priority, queue.max_running, queue.max_running_per_key, queue.max_attempts) == (9, 10, 2, 3)
    assert (queue.HasField("retention_days"), queue.retention_days, queue.dead_letter_retention_days) == (True, 0, 90)
    assert (queue.rate_limit.per_second, queue.rate_limit.burst) == (2.5, 3)
    told = queue.retry_policy
    assert (told.initial_backoff.seconds, told.max_backoff.seconds, told.backoff_multiplier) == (2, 10, 2)
    assert list(told.non_retryable_reasons) == ["BAD_INPUT"]
    assert await client.get("reports") == queue
    assert await refused(client.create("reports")) == (ALREADY, "QUEUE_EXISTS")


REFUSED: list[dict[str, Any]] = [
    {"priority": 11}, {"priority": -1}, {"max_running": 0}, {"max_running_per_key": 0}, {"max_attempts": 21},
    {"retention_days": 2}, {"dead_letter_retention_days": -1}, {"rate_limit": queue_pb2.QueueRateLimit()},
    {"rate_limit": queue_pb2.QueueRateLimit(per_second=float("nan"))},
    {"rate_limit": queue_pb2.QueueRateLimit(per_second=1, burst=0)},
    {"retry_policy": task_pb2.RetryPolicy(jitter=2)}, {"tenant_weights": {"acme": 2}},
]  # fmt: skip


async def test_what_cannot_be_a_queue_is_refused(client: Client) -> None:
    for fields in REFUSED:
        assert await refused(client.create("q", **fields)) == (INVALID, "INVALID_ARGUMENT"), fields
    for name in ("", "Q", "-q", "q" * 64, "*"):
        assert (await refused(client.create(name)))[0] is INVALID, name
    assert await refused(client.create("q", client.operator, shared=True, tenant_weights={"acme": 0})) == (
        INVALID,
        "INVALID_ARGUMENT",
    )
    for call in (client.get("nobody"), client.update("nobody", priority=1), client.delete("nobody")):
        assert await refused(call) == (MISSING, "QUEUE_NOT_FOUND")


async def test_an_update_changes_what_its_mask_names_and_needs_the_newest_etag(client: Client) -> None:
    first = await client.create("q", max_running=5, max_attempts=2)
    changed = await client.update("q", "max_running", max_running=7, max_attempts=9, etag=first.etag)
    assert (changed.max_running, changed.max_attempts) == (7, 2)
    assert changed.etag != first.etag
    assert changed.update_time.ToDatetime() > first.update_time.ToDatetime()
    stale = (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert await refused(client.update("q", "priority", priority=1, etag=first.etag)) == stale
    assert await refused(client.delete("q", first.etag)) == stale
    # Without a mask: what is set. What a mask names and is not set goes back to its default.
    assert (await client.update("q", priority=2)).max_running == 7
    assert not (await client.update("q", "max_running")).HasField("max_running")
    every = await client.update("q", "*", retention_days=1)
    assert (every.priority, every.HasField("max_attempts"), every.retention_days) == (5, False, 1)
    for mask in ("paused", "shared", "queue", "rate_limit.burst"):
        assert (await refused(client.update("q", mask)))[0] is INVALID, mask
    assert (await refused(client.update("q")))[0] is INVALID
    # A deleted one that is created anew is another.
    await client.delete("q", every.etag)
    again = await client.create("q")
    assert await refused(client.delete("q", first.etag)) == stale
    assert again.etag != first.etag


async def test_a_queue_is_paused_and_resumed(client: Client, tables: Tables) -> None:
    await client.create("q", max_running=1)
    paused = await client.queues.PauseQueue(pb.PauseQueueRequest(queue="q"), metadata=metadata(client.ada))
    assert (paused.paused, paused.max_running) == (True, 1)
    assert tables.query("SELECT paused FROM queues WHERE tenant_id = %s", client.ada.tenant_id) == [(True,)]
    assert (await client.update("q", max_running=2)).paused
    resumed = await client.queues.ResumeQueue(pb.ResumeQueueRequest(queue="q"), metadata=metadata(client.ada))
    assert not resumed.paused


async def test_a_tenants_own_queue_takes_the_place_of_the_shared_one_for_it_alone(client: Client) -> None:
    bob = Principal("bob", unique("globex"), frozenset({"admin"}))
    shared = await client.get("research")
    assert (shared.shared, shared.priority) == (True, 10)
    own = await client.create("research", priority=3, max_running=1)
    assert not own.shared
    await client.create("mine")
    assert (await client.get("research")).priority == 3
    assert await client.get("research", shared=True) == shared == await client.get("research", bob)
    assert (await names(client, client.ada))[-2:] == [("research", False), ("analysis", True)]
    assert await names(client, bob) == [("research", True), ("code", True), ("default", True), ("analysis", True)]
    for call in (client.get("mine", bob), client.update("mine", by=bob, priority=1), client.delete("mine", by=bob)):
        assert await refused(call) == (MISSING, "QUEUE_NOT_FOUND")
    await client.delete("research")
    assert await client.get("research") == shared


async def test_an_administrator_changes_its_tenants_queues_and_an_operator_the_shared_ones(client: Client) -> None:
    changes = [
        lambda by, **more: client.create("other", by, **more),
        lambda by, **more: client.update("code", "max_running", by=by, max_running=4, **more),
        lambda by, **more: client.queues.PauseQueue(pb.PauseQueueRequest(queue="code", **more), metadata=metadata(by)),
        lambda by, **more: client.queues.ResumeQueue(pb.ResumeQueueRequest(queue="code", **more), metadata=metadata(by)),
        lambda by, **more: client.delete("code", by=by, **more),
    ]
    for change in changes:
        assert await refused(change(client.user)) == (FORBIDDEN, "ROLE_REQUIRED")
        assert await refused(change(client.ada, shared=True)) == (FORBIDDEN, "SHARED_QUEUE")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.update("code", priority=1)
    assert error_info(error.value) == ("SHARED_QUEUE", {"queue": "code", "roles": "operator"})
    created = await client.create("everyones", client.operator, shared=True, tenant_weights={"acme": 3, "globex": 0.5})
    assert (created.shared, dict(created.tenant_weights)) == (True, {"acme": 3, "globex": 0.5})
    # Who the other tenants are is not told to one of them.
    assert dict((await client.get("everyones")).tenant_weights) == {}
    assert dict((await client.get("everyones", client.operator)).tenant_weights) == {"acme": 3, "globex": 0.5}
    changed = await client.update("everyones", by=client.operator, shared=True, max_running=9)
    assert (changed.max_running, dict(changed.tenant_weights)) == (9, {"acme": 3, "globex": 0.5})
    await client.delete("everyones", by=client.operator)
    assert ("everyones", True) not in await names(client, client.ada)


async def test_the_database_alone_keeps_a_tenant_from_what_is_not_its_own(client: Client, tables: Tables) -> None:
    await client.create("mine")
    other = unique("globex")
    enter = f"SET LOCAL guildmesh.tenant = '{other}';"
    seen = tables.query(f"{enter} SELECT tenant_id FROM queues", role="scheduler_api")
    assert {owner for (owner,) in seen} == {"*"}
    for change in ("UPDATE queues SET priority = 1", "DELETE FROM queues"):
        assert tables.query(f"{enter} {change} RETURNING queue", role="scheduler_api") == []
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        tables.query(f"{enter} INSERT INTO queues (tenant_id, queue, priority) VALUES ('*', 'x', 1)", role="scheduler_api")


async def test_a_tenant_has_so_many_queues_and_no_more(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MOST_QUEUES", 2)
    await client.create("a")
    await client.create("b")
    assert await refused(client.create("c")) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_QUEUES")
    await client.delete("a")
    await client.create("c")


async def test_an_operator_is_told_how_many_tasks_each_queue_has(client: Client) -> None:
    request = pb.CountQueuedTasksRequest(all_tenants=True)
    for by in (client.user, client.ada):
        assert await refused(client.queues.CountQueuedTasks(request, metadata=metadata(by))) == (FORBIDDEN, "ROLE_REQUIRED")
    name = unique("q")
    await client.create(name)
    for _ in range(3):
        task = await client.scheduler.create(queue=name)
    await client.scheduler.cancel(task.task_id)
    told = await client.queues.CountQueuedTasks(request, metadata=metadata(client.operator))
    [counts] = [dict(queue.counts) for queue in told.queues if queue.queue == name]
    assert (counts["pending"], counts["cancelled"], counts["running"]) == (2, 1, 0)
    assert told.counts["pending"] == sum(queue.counts["pending"] for queue in told.queues)


async def test_a_tenant_is_told_how_many_of_its_own_tasks_wait_and_run(client: Client) -> None:
    name = unique("q")
    await client.create(name)
    for _ in range(3):
        task = await client.scheduler.create(queue=name)
    await client.scheduler.create(dependencies=[task_pb2.TaskDependency(task_id=task.task_id)])
    ended = await client.scheduler.create()
    await client.scheduler.cancel(ended.task_id)
    other = Principal("eve", unique("other"), frozenset({"user"}))
    await client.scheduler.create(by=other, kind=unique("kind"))
    async with client.scheduler.worker(1) as worker:
        await worker.lease()
        request = pb.CountQueuedTasksRequest()
        told = await client.queues.CountQueuedTasks(request, metadata=metadata(client.user))
        nothing = {"scheduled": 0, "waiting": 0}
        assert {queue.queue: dict(queue.counts) for queue in told.queues} == {
            name: {"pending": 2, "running": 1, "blocked": 0} | nothing,
            "default": {"pending": 0, "running": 0, "blocked": 1} | nothing,
        }
        assert dict(told.counts) == {"pending": 2, "running": 1, "blocked": 1} | nothing
        theirs = await client.queues.CountQueuedTasks(request, metadata=metadata(other))
        assert [(queue.queue, queue.counts["pending"]) for queue in theirs.queues] == [("default", 1)]
