"""Events reach receivers: each at least once, each task's in order, whatever the receiver does."""

from __future__ import annotations

from tests.integration.scheduler.webhooks.conftest import Hooks, MakeWebhooks, delivering
from tests.support.receiver import receiving


async def test_a_receiver_gets_every_event_of_its_tenant_in_order(hooks: Hooks, webhook_settings: MakeWebhooks) -> None:
    async with receiving() as receiver, delivering(webhook_settings()), hooks.echoing():
        await hooks.create(receiver)
        made = [await hooks.scheduler.create(str(number)) for number in range(30)]
        await receiver.until(lambda: sum(len(numbers) for numbers in receiver.numbers().values()) >= 90)
        print([dict(r.headers) for r in receiver.requests[:2]], receiver.requests[0].body)
        assert receiver.numbers() == {task.task_id: [1, 2, 3] for task in made}
        webhook = await hooks.until(lambda webhook: not webhook.waiting_count and not webhook.behind)
        print(webhook, len(receiver.requests))
