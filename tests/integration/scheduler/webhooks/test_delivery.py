"""Events reach receivers: each at least once, each task's in order, whatever the receiver does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import grpc
import pytest
from guildmesh.scheduler.v1 import webhook_pb2
from guildmesh.scheduler.v1 import webhook_service_pb2 as pb
from guildmesh_client.webhooks import InvalidSignature, event_of, verify

from services.common.context import Principal
from services.common.db.driver import open_driver
from services.common.db.engine_role import EngineDriver
from services.common.grpcx.status import error_info
from services.scheduler.storage import webhooks as stored_webhooks
from services.scheduler.webhooks import routing
from services.scheduler.webhooks.settings import WebhookSettings
from tests.integration.scheduler.conftest import unique
from tests.integration.scheduler.webhooks.conftest import Hooks, MakeWebhooks, delivering
from tests.support.receiver import OK, Answer, Receiver, Request, receiving

ACTIVE, PAUSED, FAILING = (
    webhook_pb2.WEBHOOK_STATE_ACTIVE,
    webhook_pb2.WEBHOOK_STATE_PAUSED,
    webhook_pb2.WEBHOOK_STATE_FAILING,
)


async def create(hooks: Hooks, number: int, **fields: Any) -> list[str]:
    return [(await hooks.scheduler.create(str(each), **fields)).task_id for each in range(number)]


def complete(receiver: Receiver, task_ids: Sequence[str]) -> bool:
    ended = {request.task_id for request in receiver.taken if request.headers["ce-type"] == "guildmesh.task.completed.v1"}
    return ended >= set(task_ids)


def check(receiver: Receiver, task_ids: Sequence[str]) -> None:
    """The receiver has all events of these tasks in order, and nothing else; one that lost its worker has more than three."""
    numbers = receiver.numbers()
    assert set(numbers) == set(task_ids)
    for line in numbers.values():
        assert line == list(range(1, max(3, len(line)) + 1))


async def test_nothing_is_delivered_that_happened_before_however_much_of_it_is_on_the_topic(
    hooks: Hooks, webhook_settings: MakeWebhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "MOST_RECORDS", 3)
    # Event times are told by a clock that may be a little behind, never ahead.
    monkeypatch.setattr(stored_webhooks, "_EVENT_TIMES_BEHIND", timedelta(0))
    async with receiving() as receiver, hooks.echoing():
        before = await create(hooks, 20)
        for task_id in before:
            await hooks.scheduler.watch(task_id)
        await hooks.create(receiver)
        made = await create(hooks, 8)
        # Nobody has read the topic before: the lane begins with the webhook, by the clock of records, which may be another one.
        async with delivering(webhook_settings()):
            await receiver.until(lambda: complete(receiver, made))
    check(receiver, made)


async def test_receivers_get_what_they_want_of_their_tenant_signed_and_in_order(
    hooks: Hooks, webhook_settings: MakeWebhooks
) -> None:
    other = Principal("eve", unique("globex"), frozenset({"user"}))
    async with receiving() as every, receiving() as few, delivering(webhook_settings()), hooks.echoing():
        before = await create(hooks, 2)
        created = await hooks.create(every)
        await hooks.create(few, "few", filter="type = completed AND labels.team = red")
        assert created.secret.startswith("whsec_")
        assert not (await hooks.get()).secret
        made = await create(hooks, 15)
        await hooks.scheduler.create(by=other)
        red = await create(hooks, 5, labels={"team": "red"})
        await every.until(lambda: complete(every, made + red))
        await few.until(lambda: len(few.taken) >= 5)
        numbers = every.numbers()
        # Of what was there before, only what has happened since.
        assert all(numbers[task_id] == list(range(1, max(3, len(numbers[task_id])) + 1)) for task_id in made + red)
        assert set(numbers) <= {*before, *made, *red}
        assert {request.task_id: request.event["type"] for request in few.taken} == dict.fromkeys(
            red, "guildmesh.task.completed.v1"
        )
        stored = {event.number: event for event in await hooks.scheduler.watch(made[0])}
        for request in every.taken:
            assert verify(created.secret, request.headers, request.body) == request.id == request.headers["ce-id"]
            if request.task_id == made[0]:
                assert event_of(request.body) == stored[request.number]
        rotated = await hooks.stub.RotateWebhookSecret(pb.RotateWebhookSecretRequest(webhook_id="hook"), metadata=hooks.metadata)
        assert rotated.secret != created.secret
        ping = await hooks.stub.TestWebhook(pb.TestWebhookRequest(webhook_id="hook"), metadata=hooks.metadata)
        assert (ping.delivered, ping.status_code) == (True, 200)
        last = every.taken[-1]
        for secret in (rotated.secret, created.secret):
            assert verify(secret, last.headers, last.body).startswith("ping/")
        with pytest.raises(InvalidSignature):
            verify("whsec_" + "A" * 44, last.headers, last.body)
        idle = await hooks.until(lambda webhook: not webhook.waiting_count and not webhook.behind)
        assert (idle.state, idle.failed_count) == (ACTIVE, 0)


@pytest.mark.parametrize("hooks", [{"value_format": "json"}], indirect=True, ids=["json"])
async def test_what_is_json_on_the_topic_reaches_receivers_as_well(hooks: Hooks, webhook_settings: MakeWebhooks) -> None:
    async with receiving() as receiver, delivering(webhook_settings()), hooks.echoing():
        await hooks.create(receiver)
        made = await create(hooks, 3)
        await receiver.until(lambda: complete(receiver, made))
        check(receiver, made)
        stored = {event.number: event for event in await hooks.scheduler.watch(made[0])}
        for request in receiver.taken:
            if request.task_id == made[0]:
                assert event_of(request.body) == stored[request.number]


async def test_an_event_that_is_refused_holds_back_its_task_alone_and_is_given_up_and_replayed(
    hooks: Hooks, webhook_settings: MakeWebhooks
) -> None:
    broken: set[str] = set()

    def answer(request: Request) -> Answer:
        if request.task_id in broken and request.number == 2:
            return 500, {}, b"no" * 5000
        return OK

    async with receiving(answer=answer) as receiver, delivering(webhook_settings(most_attempts=4, most_failures=50)):
        await hooks.create(receiver)
        bad, worse = await create(hooks, 2)
        broken.update((bad, worse))
        async with hooks.echoing():
            good = await create(hooks, 12)
            await receiver.until(lambda: complete(receiver, good))
            await hooks.until(lambda webhook: webhook.failed_count == 2)
            # The later events of its task went on once it was given up, and not before.
            await receiver.until(lambda: all(receiver.numbers().get(task_id, [])[-1:] == [3] for task_id in (bad, worse)))
        for task_id in (bad, worse):
            assert receiver.numbers()[task_id] == [1, 3]
            assert [request.number for request in receiver.requests if request.task_id == task_id] == [1, 2, 2, 2, 2, 3]
        pages = []
        token = ""
        for _ in range(2):
            page = pb.ListFailedDeliveriesRequest(webhook_id="hook", page_size=1, page_token=token)
            answer = await hooks.stub.ListFailedDeliveries(page, metadata=hooks.metadata)
            pages += answer.failed_deliveries
            token = answer.next_page_token
        assert (sorted(delivery.task_id for delivery in pages), token) == (sorted((bad, worse)), "")
        delivery = next(each for each in pages if each.task_id == bad)
        assert (delivery.event_number, delivery.attempts, delivery.status_code) == (2, 4, 500)
        assert delivery.error.startswith("HTTP 500: nono")
        request = pb.GetFailedDeliveryRequest(webhook_id="hook", delivery_id=delivery.delivery_id)
        assert (await hooks.stub.GetFailedDelivery(request, metadata=hooks.metadata)).event.number == 2
        broken.clear()
        again = pb.ReplayFailedDeliveryRequest(webhook_id="hook", delivery_id=delivery.delivery_id)
        await hooks.stub.ReplayFailedDelivery(again, metadata=hooks.metadata)
        await receiver.until(lambda: sorted(receiver.numbers()[bad]) == [1, 2, 3])
        many = pb.ReplayFailedDeliveriesRequest(webhook_id="hook", end_time=delivery.fail_time)
        before = await hooks.stub.ReplayFailedDeliveries(many, metadata=hooks.metadata)
        many = pb.ReplayFailedDeliveriesRequest(webhook_id="hook", start_time=delivery.fail_time)
        after = await hooks.stub.ReplayFailedDeliveries(many, metadata=hooks.metadata)
        assert (before.replayed + after.replayed, after.left) == (1, 0)
        await receiver.until(lambda: sorted(receiver.numbers()[worse]) == [1, 2, 3])
        await hooks.until(lambda webhook: not webhook.failed_count and not webhook.waiting_count)
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            await hooks.stub.ReplayFailedDelivery(again, metadata=hooks.metadata)
        assert error_info(gone.value)[0] == "FAILED_DELIVERY_NOT_FOUND"


async def test_what_happened_while_a_receiver_was_down_comes_when_it_is_back_and_slows_nobody(
    hooks: Hooks, webhook_settings: MakeWebhooks
) -> None:
    # Much more than may wait outside of the topic.
    settings = webhook_settings(most_waiting=64)
    async with receiving() as down, receiving() as up, delivering(settings), hooks.echoing():
        await hooks.create(down)
        await hooks.create(up, "up")
        first = await create(hooks, 3)
        await down.until(lambda: complete(down, first))
        await down.stop()
        made = await create(hooks, 60)
        await up.until(lambda: complete(up, made))
        failing = await hooks.until(lambda webhook: webhook.state == FAILING and webhook.behind)
        assert failing.HasField("failing_since")
        assert "ConnectError" in failing.last_error
        # About a page of the topic more than may wait, in the worst case.
        assert failing.waiting_count < 180
        await down.start()
        await down.until(lambda: complete(down, made))
        for receiver in (down, up):
            check(receiver, first + made)
        after = await hooks.until(lambda webhook: webhook.state == ACTIVE and not webhook.waiting_count and not webhook.behind)
        assert after.failed_count == 0


async def test_what_receivers_answer_is_heeded(hooks: Hooks, webhook_settings: MakeWebhooks) -> None:
    """Redirects, 410, Retry-After, answers without end and answers that never come; each at a webhook of its own."""
    elsewhere: list[Request] = []
    waited: dict[str, list[float]] = {}

    def moved(request: Request) -> Answer:
        elsewhere.extend([request] if request.path == "/elsewhere" else [])
        return 302, {"location": "/elsewhere"}, b""

    def busy(request: Request) -> Answer:
        waited.setdefault(request.id, []).append(time.monotonic())
        return (429, {"retry-after": "1"}, b"") if len(waited) == 1 and len(waited[request.id]) == 1 else OK

    async def never(request: Request) -> Answer:
        await asyncio.sleep(30)
        return OK

    async with (
        receiving(answer=moved) as redirecting,
        receiving(answer=lambda _: (410, {}, b"")) as gone,
        receiving(answer=busy) as later,
        receiving(answer=never) as silent,
        receiving(answer=lambda _: (200, {}, b"x" * (1 << 20))) as long,
        receiving() as fine,
        delivering(webhook_settings(webhook_timeout_seconds=0.5)),
        hooks.echoing(),
    ):
        receivers = {"moved": redirecting, "gone": gone, "later": later, "silent": silent, "long": long, "fine": fine}
        for name, receiver in receivers.items():
            await hooks.create(receiver, name)
        made = await create(hooks, 10)
        for receiver in (fine, long, later):
            await receiver.until(lambda receiver=receiver: complete(receiver, made))
        moved_to = await hooks.until(lambda webhook: webhook.state == FAILING, "moved")
        assert "redirects are not followed" in moved_to.last_error
        assert elsewhere == []
        paused = await hooks.until(lambda webhook: webhook.state == PAUSED, "gone")
        assert "410" in paused.last_error
        assert "no answer within 0.5 s" in (await hooks.until(lambda webhook: webhook.state == FAILING, "silent")).last_error
        first, second = next(iter(waited.values()))
        assert second - first >= 0.95
        for receiver in (later, fine):
            check(receiver, made)
        # What waits of a receiver that is gone is there when it is not gone after all.
        gone.answer = lambda _: OK
        await hooks.stub.ResumeWebhook(pb.ResumeWebhookRequest(webhook_id="gone"), metadata=hooks.metadata)
        await gone.until(lambda: complete(gone, made))


async def test_a_webhook_is_paused_changed_set_back_and_deleted(hooks: Hooks, webhook_settings: MakeWebhooks) -> None:
    async with receiving() as receiver, receiving() as new, hooks.echoing():
        created = await hooks.create(receiver)
        call = pb.PauseWebhookRequest(webhook_id="hook")
        assert (await hooks.stub.PauseWebhook(call, metadata=hooks.metadata)).state == PAUSED
        async with delivering(webhook_settings()):
            made = await create(hooks, 5)
            await hooks.until(lambda webhook: webhook.waiting_count >= 15)
            assert receiver.requests == []
            change = webhook_pb2.Webhook(webhook_id="hook", url=new.url)
            await hooks.stub.UpdateWebhook(pb.UpdateWebhookRequest(webhook=change), metadata=hooks.metadata)
            await hooks.stub.ResumeWebhook(pb.ResumeWebhookRequest(webhook_id="hook"), metadata=hooks.metadata)
            await new.until(lambda: complete(new, made))
            assert receiver.requests == []
            # As if its receiver had lost everything.
            new.taken.clear()
            back = pb.ReplayWebhookRequest(webhook_id="hook", start_time=created.create_time)
            await hooks.stub.ReplayWebhook(back, metadata=hooks.metadata)
            await new.until(lambda: complete(new, made))
            check(new, made)
            await hooks.until(lambda webhook: not webhook.waiting_count and not webhook.behind)
            await hooks.stub.DeleteWebhook(pb.DeleteWebhookRequest(webhook_id="hook"), metadata=hooks.metadata)
            await hooks.create(receiver, "next")
            more = await create(hooks, 2)
            await receiver.until(lambda: complete(receiver, more))
            assert set(new.numbers()) == set(made)
            assert json.loads(receiver.taken[0].body)["number"] == 1


async def test_replicas_share_the_work_and_take_it_over(hooks: Hooks, webhook_settings: MakeWebhooks) -> None:
    async with receiving() as receiver, delivering(webhook_settings()) as one:
        await hooks.create(receiver)
        async with delivering(webhook_settings()), hooks.echoing():
            made = await create(hooks, 20)
            await receiver.until(lambda: complete(receiver, made))
            await one.stop()
            # The one that has stopped may have said so last.
            await fail(webhook_settings())
            more = await create(hooks, 20)
            await receiver.until(lambda: complete(receiver, made + more))
            await hooks.until(lambda webhook: webhook.state == ACTIVE)
        check(receiver, made + more)


async def fail(settings: WebhookSettings) -> None:
    """Says that all receivers take nothing."""
    async with open_driver(settings, "scheduler") as database, EngineDriver(database).transaction() as connection:
        await connection.execute("UPDATE webhooks SET failing_since = now()")
