"""WebhookService: each method converts, calls its use case, converts back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.empty_pb2 import Empty
from guildmesh.scheduler.v1 import webhook_pb2
from guildmesh.scheduler.v1 import webhook_service_pb2 as pb
from guildmesh.scheduler.v1 import webhook_service_pb2_grpc as pb_grpc

from services.common.context import current_call
from services.scheduler.domain.webhook import DEFAULT_OVERLAP
from services.scheduler.server.convert import moment
from services.scheduler.server.webhook_convert import (
    changes,
    failed_delivery_message,
    new_webhook,
    tested_message,
    webhook_message,
)
from services.scheduler.usecases.create_webhook import CreateWebhook
from services.scheduler.usecases.delete_webhook import DeleteWebhook
from services.scheduler.usecases.failed_deliveries import FailedDeliveries
from services.scheduler.usecases.get_webhook import GetWebhook
from services.scheduler.usecases.list_webhooks import ListWebhooks
from services.scheduler.usecases.pause_webhook import PauseWebhook
from services.scheduler.usecases.replay_webhook import ReplayWebhook
from services.scheduler.usecases.rotate_webhook_secret import RotateWebhookSecret
from services.scheduler.usecases.test_webhook import TestWebhook
from services.scheduler.usecases.update_webhook import UpdateWebhook


@dataclass(frozen=True, slots=True)
class WebhookUseCases:
    """What the servicer calls."""

    create_webhook: CreateWebhook
    get_webhook: GetWebhook
    list_webhooks: ListWebhooks
    update_webhook: UpdateWebhook
    delete_webhook: DeleteWebhook
    pause_webhook: PauseWebhook
    resume_webhook: PauseWebhook
    rotate_webhook_secret: RotateWebhookSecret
    test_webhook: TestWebhook
    replay_webhook: ReplayWebhook
    failed_deliveries: FailedDeliveries


class WebhookServicer(pb_grpc.WebhookServiceServicer):
    """Serves guildmesh.scheduler.v1.WebhookService."""

    def __init__(self, use_cases: WebhookUseCases) -> None:
        self._use_cases = use_cases

    async def CreateWebhook(self, request: pb.CreateWebhookRequest, context: Any) -> webhook_pb2.Webhook:
        """Creates a webhook."""
        principal = current_call().principal
        webhook = new_webhook(request, principal.tenant_id, principal.subject)
        return webhook_message(await self._use_cases.create_webhook.execute(webhook), with_secret=True)

    async def GetWebhook(self, request: pb.GetWebhookRequest, context: Any) -> webhook_pb2.Webhook:
        """Gives a webhook."""
        return webhook_message(*await self._use_cases.get_webhook.execute(_tenant(), request.webhook_id))

    async def ListWebhooks(self, request: pb.ListWebhooksRequest, context: Any) -> pb.ListWebhooksResponse:
        """Gives a page of webhooks."""
        found, token = await self._use_cases.list_webhooks.execute(_tenant(), request.page_size, request.page_token)
        return pb.ListWebhooksResponse(webhooks=map(webhook_message, found), next_page_token=token)

    async def UpdateWebhook(self, request: pb.UpdateWebhookRequest, context: Any) -> webhook_pb2.Webhook:
        """Changes a webhook."""
        values = changes(request)
        webhook = request.webhook
        return webhook_message(await self._use_cases.update_webhook.execute(_tenant(), webhook.webhook_id, values, webhook.etag))

    async def DeleteWebhook(self, request: pb.DeleteWebhookRequest, context: Any) -> Empty:
        """Deletes a webhook."""
        await self._use_cases.delete_webhook.execute(_tenant(), request.webhook_id, request.etag)
        return Empty()

    async def PauseWebhook(self, request: pb.PauseWebhookRequest, context: Any) -> webhook_pb2.Webhook:
        """Pauses a webhook."""
        return webhook_message(await self._use_cases.pause_webhook.execute(_tenant(), request.webhook_id))

    async def ResumeWebhook(self, request: pb.ResumeWebhookRequest, context: Any) -> webhook_pb2.Webhook:
        """Resumes a webhook."""
        return webhook_message(await self._use_cases.resume_webhook.execute(_tenant(), request.webhook_id))

    async def RotateWebhookSecret(self, request: pb.RotateWebhookSecretRequest, context: Any) -> webhook_pb2.Webhook:
        """Gives a webhook a new secret."""
        overlap = request.overlap.ToTimedelta() if request.HasField("overlap") else DEFAULT_OVERLAP
        webhook = await self._use_cases.rotate_webhook_secret.execute(_tenant(), request.webhook_id, overlap)
        return webhook_message(webhook, with_secret=True)

    async def TestWebhook(self, request: pb.TestWebhookRequest, context: Any) -> pb.TestWebhookResponse:
        """Sends a ping."""
        return tested_message(await self._use_cases.test_webhook.execute(_tenant(), request.webhook_id))

    async def ReplayWebhook(self, request: pb.ReplayWebhookRequest, context: Any) -> webhook_pb2.Webhook:
        """Delivers again from a time on."""
        start = moment(request.start_time, "start_time")
        return webhook_message(await self._use_cases.replay_webhook.execute(_tenant(), request.webhook_id, start))

    async def ListFailedDeliveries(
        self, request: pb.ListFailedDeliveriesRequest, context: Any
    ) -> pb.ListFailedDeliveriesResponse:
        """Gives a page of failed deliveries."""
        found, token = await self._use_cases.failed_deliveries.list(
            _tenant(), request.webhook_id, request.page_size, request.page_token
        )
        messages = [failed_delivery_message(request.webhook_id, delivery) for delivery in found]
        return pb.ListFailedDeliveriesResponse(failed_deliveries=messages, next_page_token=token)

    async def GetFailedDelivery(self, request: pb.GetFailedDeliveryRequest, context: Any) -> webhook_pb2.FailedDelivery:
        """Gives a failed delivery."""
        found = await self._use_cases.failed_deliveries.get(_tenant(), request.webhook_id, request.delivery_id)
        return failed_delivery_message(request.webhook_id, found)

    async def ReplayFailedDelivery(
        self, request: pb.ReplayFailedDeliveryRequest, context: Any
    ) -> pb.ReplayFailedDeliveryResponse:
        """Has one delivered again."""
        await self._use_cases.failed_deliveries.replay(_tenant(), request.webhook_id, request.delivery_id)
        return pb.ReplayFailedDeliveryResponse()

    async def ReplayFailedDeliveries(
        self, request: pb.ReplayFailedDeliveriesRequest, context: Any
    ) -> pb.ReplayFailedDeliveriesResponse:
        """Has many delivered again."""
        start = moment(request.start_time, "start_time") if request.HasField("start_time") else None
        end = moment(request.end_time, "end_time") if request.HasField("end_time") else None
        replayed, left = await self._use_cases.failed_deliveries.replay_all(_tenant(), request.webhook_id, start, end)
        return pb.ReplayFailedDeliveriesResponse(replayed=replayed, left=left)

    async def DeleteFailedDelivery(self, request: pb.DeleteFailedDeliveryRequest, context: Any) -> Empty:
        """Forgets one."""
        await self._use_cases.failed_deliveries.delete(_tenant(), request.webhook_id, request.delivery_id)
        return Empty()


def _tenant() -> str:
    return current_call().principal.tenant_id
