"""`guildmesh webhooks`: what sends events of tasks to a URL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.scheduler.v1 import webhook_pb2
from guildmesh.scheduler.v1 import webhook_service_pb2 as pb
from guildmesh.scheduler.v1 import webhook_service_pb2_grpc as stubs
from rich.markup import escape
from rich.table import Table

from guildmesh_client.cli.connection import connect
from guildmesh_client.cli.errors import CommandError
from guildmesh_client.cli.output import err, out, print_json
from guildmesh_client.cli.times import moment_of, seconds_of

app = typer.Typer(
    help="Webhooks: create, list, show, update, pause, resume, test, rotate-secret, deliveries, replay, delete.",
    no_args_is_help=True,
)

_SECONDS = 30.0
_TEST_SECONDS = 90.0

WebhookId = Annotated[str, typer.Argument(help="The id of the webhook.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Filter = Annotated[str | None, typer.Option(help="Which events, such as 'type = completed AND queue = research'; '' for all.")]
Description = Annotated[str | None, typer.Option(help="What it is for.")]
Etag = Annotated[str, typer.Option(help="Refuse when somebody has changed it since it had this etag.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")]


@app.command("create")
def create_webhook(
    url: Annotated[str, typer.Argument(help="Where the events go.")],
    webhook_id: Annotated[str, typer.Option("--id", help="The id of the webhook; given one if empty.")] = "",
    filter: Filter = None,
    description: Description = None,
    as_json: AsJson = False,
) -> None:
    """Create a webhook; print its id, and the secret that its receiver needs, which is told only now."""
    webhook = webhook_pb2.Webhook(url=url, filter=filter or "", description=description or "")
    with connect() as connection:
        request = pb.CreateWebhookRequest(webhook=webhook, webhook_id=webhook_id)
        created = stubs.WebhookServiceStub(connection.channel).CreateWebhook(
            request, metadata=connection.metadata, timeout=_SECONDS
        )
    if as_json:
        print_json(created)
        return
    out.print(created.webhook_id, highlight=False)
    out.print(created.secret, highlight=False, markup=False, soft_wrap=True)
    err.print("the second line is the secret, which the receiver needs; it is not told again", style="dim")


@app.command("list")
def list_webhooks(limit: Limit = 200, as_json: AsJson = False) -> None:
    """List your webhooks."""
    found: list[webhook_pb2.Webhook] = []
    token = ""
    with connect() as connection:
        stub = stubs.WebhookServiceStub(connection.channel)
        while len(found) < limit:
            request = pb.ListWebhooksRequest(page_size=min(limit - len(found), 200), page_token=token)
            response = stub.ListWebhooks(request, metadata=connection.metadata, timeout=_SECONDS)
            found += response.webhooks
            token = response.next_page_token
            if not token:
                break
    if as_json:
        print_json(pb.ListWebhooksResponse(webhooks=found, next_page_token=token))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("webhook", "state", "url", "filter", "last error"):
        table.add_column(heading, overflow="fold")
    for webhook in found:
        table.add_row(
            webhook.webhook_id, _state(webhook), escape(webhook.url), escape(webhook.filter), escape(webhook.last_error)
        )
    out.print(table)
    if not found:
        err.print("no webhooks", style="dim")


@app.command("show")
def show_webhook(webhook_id: WebhookId) -> None:
    """Show one webhook as JSON, with how much waits for it."""
    with connect() as connection:
        stub = stubs.WebhookServiceStub(connection.channel)
        print_json(stub.GetWebhook(pb.GetWebhookRequest(webhook_id=webhook_id), metadata=connection.metadata, timeout=_SECONDS))


@app.command("update")
def update_webhook(
    webhook_id: WebhookId,
    url: Annotated[str | None, typer.Option(help="Where the events go.")] = None,
    filter: Filter = None,
    description: Description = None,
    etag: Etag = "",
) -> None:
    """Change what is given, and leave the rest."""
    values = {"url": url, "filter": filter, "description": description}
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        raise CommandError("There is nothing to change; see `guildmesh webhooks update --help`.")
    webhook = webhook_pb2.Webhook(
        webhook_id=webhook_id, etag=etag, url=url or "", filter=filter or "", description=description or ""
    )
    with connect() as connection:
        request = pb.UpdateWebhookRequest(webhook=webhook, update_mask=FieldMask(paths=list(given)))
        _tell(stubs.WebhookServiceStub(connection.channel).UpdateWebhook(request, metadata=connection.metadata, timeout=_SECONDS))


@app.command("pause")
def pause_webhook(webhook_id: WebhookId) -> None:
    """Deliver nothing until it is resumed; events wait."""
    with connect() as connection:
        request = pb.PauseWebhookRequest(webhook_id=webhook_id)
        _tell(stubs.WebhookServiceStub(connection.channel).PauseWebhook(request, metadata=connection.metadata, timeout=_SECONDS))


@app.command("resume")
def resume_webhook(webhook_id: WebhookId) -> None:
    """Deliver again, and what waits first; a failing one is tried at once."""
    with connect() as connection:
        request = pb.ResumeWebhookRequest(webhook_id=webhook_id)
        _tell(stubs.WebhookServiceStub(connection.channel).ResumeWebhook(request, metadata=connection.metadata, timeout=_SECONDS))


@app.command("rotate-secret")
def rotate_secret(
    webhook_id: WebhookId,
    overlap: Annotated[str, typer.Option(help="How long the secret before stays valid, up to 30d; 0s ends it at once.")] = "1d",
) -> None:
    """Make a new secret and print it; until the overlap is over, requests are signed with both."""
    request = pb.RotateWebhookSecretRequest(webhook_id=webhook_id)
    request.overlap.FromTimedelta(timedelta(seconds=seconds_of(overlap, "--overlap")))
    with connect() as connection:
        stub = stubs.WebhookServiceStub(connection.channel)
        webhook = stub.RotateWebhookSecret(request, metadata=connection.metadata, timeout=_SECONDS)
    out.print(webhook.secret, highlight=False, markup=False, soft_wrap=True)


@app.command("test")
def test_webhook(webhook_id: WebhookId) -> None:
    """Send a ping and print what came back; the exit code is 1 when it was not taken."""
    with connect() as connection:
        request = pb.TestWebhookRequest(webhook_id=webhook_id)
        answer = stubs.WebhookServiceStub(connection.channel).TestWebhook(
            request, metadata=connection.metadata, timeout=_TEST_SECONDS
        )
    if not answer.delivered:
        raise CommandError(f"The receiver did not take the ping: {answer.error}")
    milliseconds = answer.duration.ToTimedelta() / timedelta(milliseconds=1)
    out.print(f"delivered: HTTP {answer.status_code} in {milliseconds:.0f} ms", highlight=False)


@app.command("deliveries")
def failed_deliveries(
    webhook_id: WebhookId,
    delivery_id: Annotated[str, typer.Argument(help="One of them, to show it with its event.")] = "",
    limit: Limit = 200,
    as_json: AsJson = False,
) -> None:
    """List the deliveries that failed for good, or show one."""
    with connect() as connection:
        stub = stubs.WebhookServiceStub(connection.channel)
        if delivery_id:
            one = pb.GetFailedDeliveryRequest(webhook_id=webhook_id, delivery_id=delivery_id)
            print_json(stub.GetFailedDelivery(one, metadata=connection.metadata, timeout=_SECONDS))
            return
        found: list[webhook_pb2.FailedDelivery] = []
        token = ""
        while len(found) < limit:
            request = pb.ListFailedDeliveriesRequest(
                webhook_id=webhook_id, page_size=min(limit - len(found), 200), page_token=token
            )
            response = stub.ListFailedDeliveries(request, metadata=connection.metadata, timeout=_SECONDS)
            found += response.failed_deliveries
            token = response.next_page_token
            if not token:
                break
    if as_json:
        print_json(pb.ListFailedDeliveriesResponse(failed_deliveries=found, next_page_token=token))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("delivery", "type", "failed (UTC)", "tries", "error"):
        table.add_column(heading, overflow="fold")
    for each in found:
        failed = each.fail_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(each.delivery_id, each.event_type, failed, str(each.attempts), escape(each.error))
    out.print(table)
    if not found:
        err.print("no failed deliveries", style="dim")


@app.command("replay")
def replay(
    webhook_id: WebhookId,
    delivery_id: Annotated[str, typer.Argument(help="One failed delivery; without it, all that failed.")] = "",
    since: Annotated[str, typer.Option(help="Deliver all events again from then on, such as 2h or 2026-11-22T10:00:00Z.")] = "",
) -> None:
    """Deliver again: what failed, or with --since everything from a time on."""
    if since and delivery_id:
        raise CommandError("Give a delivery or --since, not both.")
    with connect() as connection:
        stub = stubs.WebhookServiceStub(connection.channel)
        if since:
            stamp = _start(since)
            set_back = pb.ReplayWebhookRequest(webhook_id=webhook_id, start_time=stamp)
            stub.ReplayWebhook(set_back, metadata=connection.metadata, timeout=_SECONDS)
            out.print(f"{webhook_id} delivers again from {stamp.ToJsonString()} on", highlight=False, markup=False)
            return
        if delivery_id:
            one = pb.ReplayFailedDeliveryRequest(webhook_id=webhook_id, delivery_id=delivery_id)
            stub.ReplayFailedDelivery(one, metadata=connection.metadata, timeout=_SECONDS)
            out.print(f"{delivery_id} is delivered again", highlight=False, markup=False)
            return
        number, left = 0, 1
        while left:
            many = pb.ReplayFailedDeliveriesRequest(webhook_id=webhook_id)
            answer = stub.ReplayFailedDeliveries(many, metadata=connection.metadata, timeout=_SECONDS)
            number += answer.replayed
            left = answer.left if answer.replayed else 0
    out.print(f"{number} are delivered again", highlight=False)


@app.command("delete")
def delete_webhook(webhook_id: WebhookId, etag: Etag = "") -> None:
    """Delete a webhook with what waits for it."""
    with connect() as connection:
        request = pb.DeleteWebhookRequest(webhook_id=webhook_id, etag=etag)
        stubs.WebhookServiceStub(connection.channel).DeleteWebhook(request, metadata=connection.metadata, timeout=_SECONDS)
    out.print(f"{webhook_id} is deleted", highlight=False, markup=False)


def _state(webhook: webhook_pb2.Webhook) -> str:
    return webhook_pb2.WebhookState.Name(webhook.state).removeprefix("WEBHOOK_STATE_").lower()


def _tell(webhook: webhook_pb2.Webhook) -> None:
    out.print(f"{webhook.webhook_id}: {_state(webhook)}", highlight=False, markup=False)


def _start(since: str) -> Timestamp:
    """The moment that `since` names, or that is so long ago."""
    stamp = Timestamp()
    if since[:1].isdigit() and "-" not in since:
        stamp.FromDatetime(datetime.now(UTC) - timedelta(seconds=seconds_of(since, "--since")))
    else:
        stamp.FromDatetime(moment_of(since, "--since"))
    return stamp
