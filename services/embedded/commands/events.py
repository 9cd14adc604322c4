"""`guildmesh events replay` and `guildmesh events acls`, beside what the client has of `guildmesh events`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from guildmesh_client.cli.errors import CommandError
from guildmesh_client.cli.times import moment_of, seconds_of

from services.embedded.commands.console import fail, one_line_errors, open_state, out
from services.embedded.diagnosis import database_url
from services.embedded.errors import MeshError, first_problem
from services.embedded.plan import event_master_key

if TYPE_CHECKING:
    from services.scheduler.adapters.kafka_acls import Rule
    from services.scheduler.relay.replay_progress import Progress, ReplayRange
    from services.scheduler.relay.settings import RelaySettings, ReplaySettings

S = TypeVar("S", bound="RelaySettings")
app = typer.Typer(help="Events: watch, replay, and who may read them on Kafka.")
_LAST_NUMBER = 2**31 - 1
_TIME_HELP = "a time with a zone, how long ago (90m, 2h, 3d)"


@app.command("replay")
def replay(
    since: Annotated[
        str, typer.Option("--from", help=f"Where to begin: {_TIME_HELP}, or a number: that of the first event of each task.")
    ],
    until: Annotated[
        str, typer.Option("--to", help="Where to end: as --from; a time is not included, a number is. Now without it.")
    ] = "",
    topic: Annotated[str, typer.Option(help="The topic to publish to, one of your own, which is made if it is not there.")] = "",
    task: Annotated[str, typer.Option(help="Only the events of the task with this id.")] = "",
    tenant: Annotated[str, typer.Option(help="Only the events of this tenant's tasks.")] = "",
    queue: Annotated[str, typer.Option(help="Only the events of tasks of this queue.")] = "",
    to_public_topic: Annotated[
        bool,
        typer.Option("--to-public-topic", help="Publish to the topic of the relays: all of its readers see repeats."),
    ] = False,
    restart: Annotated[bool, typer.Option(help="Begin anew, whatever came of an earlier replay into the topic.")] = False,
) -> None:
    """Publish events of the log to Kafka again, byte for byte; started again with the same options it goes on where it was."""
    from services.scheduler.relay.replay import Target
    from services.scheduler.relay.settings import ReplaySettings

    with one_line_errors():
        settings = settings_of(ReplaySettings, event_keys=True)
        wanted = _range(since, until, task, tenant, queue, settings)
        name = _topic(settings, topic, tenant, public=to_public_topic)
    _run_replay(settings, wanted, Target(name, to_public_topic, restart))


def _quiet() -> None:
    # What it says of a broker that does not answer is said in one line at the end.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def settings_of(kind: type[S], *, event_keys: bool = False) -> S:
    """The settings of a relay (or a replay) of the mesh that runs, or of the one whose addresses are in the environment.

    With `event_keys` also those that encrypt events; a mesh that runs in development has them in its state folder.

    Raises:
        MeshError: there is neither, or a setting is wrong.
    """
    from pydantic import ValidationError

    from services.embedded.event_settings import as_exported

    _quiet()
    settings, state = open_state()
    exports = state.record().get("exports", {}) if state.is_locked() else {}
    kafka = settings.kafka_bootstrap_servers or exports.get("KAFKA_BOOTSTRAP_SERVERS")
    if not kafka:
        raise MeshError("No mesh runs, and KAFKA_BOOTSTRAP_SERVERS is not set: start the mesh, or set it and DATABASE_URL.")
    own = as_exported(exports) | {
        "kafka_bootstrap_servers": kafka,
        "database_url": database_url(settings, state),
        "db_pool_size": 2,
    }
    if event_keys and state.is_locked() and (key := event_master_key(settings, state)) is not None:
        own["event_master_key"] = key
    try:
        return kind(**own, enable_tracing=False)  # type: ignore[arg-type]
    except ValidationError as error:
        raise MeshError(first_problem(error)) from error


def _range(since: str, until: str, task: str, tenant: str, queue: str, settings: RelaySettings) -> ReplayRange:
    from services.common.ids import is_id
    from services.scheduler.relay.replay_progress import ReplayRange

    if task and not is_id(task):
        raise CommandError(f"--task {task!r} is not the id of a task; see `guildmesh tasks list`.")
    begin, first = _place(since, "--from")
    end, last = _place(until, "--to") if until else ("", 0)
    if (last and last < first) or (begin and end and end <= begin):
        raise CommandError(f"--to {until} lies before --from {since}, so there is nothing between them.")
    asked = f"{since} {until}" if begin or end else ""
    return ReplayRange(begin, end, first or 1, last, task.lower(), tenant, queue, settings.value_format, asked)


def _place(text: str, option: str) -> tuple[str, int]:
    """A moment, or a number; the other one is empty."""
    if text.isdigit():
        if not 1 <= int(text) <= _LAST_NUMBER:
            raise CommandError(f"{option} {text}: the events of a task are numbered from 1 on.")
        return "", int(text)
    if text[:1].isdigit() and text[-1:] in "smhd":
        return (datetime.now(UTC) - timedelta(seconds=seconds_of(text, option))).isoformat(), 0
    return moment_of(text, option).astimezone(UTC).isoformat(), 0


def _topic(settings: RelaySettings, topic: str, tenant: str, *, public: bool) -> str:
    from services.scheduler.topic_settings import TOPIC_NAME

    names = settings.topic_names
    if public and names.per_tenant and not tenant:
        raise CommandError("With KAFKA_TOPIC_PER_TENANT a replay to a public topic is of one tenant; name it with --tenant.")
    events = names.of(names.owner(tenant)).events
    if public:
        if topic and topic != events:
            raise CommandError(f"--to-public-topic is {events}, not {topic}; leave --topic out, or the other one.")
        return events
    if not topic:
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        return f"{events}.replay-{stamp}"
    if names.is_public(topic):
        raise CommandError(
            f"{topic} is a topic that relays publish to, and all of its readers would see repeats; choose another one, or say"
            " --to-public-topic."
        )
    if not TOPIC_NAME.fullmatch(topic):
        raise CommandError(f"--topic {topic!r}: a topic's name has letters, digits, '.', '_' and '-' only, at most 249.")
    return topic


def _run_replay(settings: ReplaySettings, wanted: ReplayRange, target: object) -> None:
    from aiokafka.errors import KafkaError, ProducerFenced

    from services.common.errors import DomainError
    from services.scheduler.relay.replay import ReplayRefused, Target, replay_events

    assert isinstance(target, Target)
    out.print(f"Replaying into {target.topic}.", highlight=False, soft_wrap=True)
    again = f"start the same command with --topic {target.topic} to go on" if not target.public else "start it again to go on"

    def tell(progress: Progress) -> None:
        out.print(f"{progress.records:,} records", highlight=False)

    try:
        done = asyncio.run(replay_events(settings, wanted, target, tell))
    except ReplayRefused as error:
        fail(str(error))
    except ProducerFenced:
        fail(f"Another replay into {target.topic} was started meanwhile, and goes on instead of this one.")
    except (KafkaError, DomainError, OSError, TimeoutError) as error:
        fail(f"The replay broke off: {str(error) or type(error).__name__}; {again}.")
    else:
        out.print(f"Done: {done.records:,} records in {target.topic}.", highlight=False, soft_wrap=True)


@app.command("acls")
def acls(
    principal: Annotated[str, typer.Option(help="Who, as Kafka names it, such as User:acme-reader.")],
    tenant: Annotated[
        str,
        typer.Option(help="The tenant whose topics may be read; needs KAFKA_TOPIC_PER_TENANT."),
    ] = "",
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="The topics of all tenants may be read.")] = False,
    group_prefix: Annotated[
        str, typer.Option(help="With what the names of the reader's groups begin; the tenant without it.")
    ] = "",
    relay: Annotated[bool, typer.Option("--relay", help="What relays and schedulers need, instead.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Set them, too; needs Alter on the cluster.")] = False,
) -> None:
    """Print the access rules of Kafka that a reader of a tenant's topics needs, as calls of kafka-acls.sh, and set them."""
    from services.scheduler.adapters.kafka_acls import reader_rules, relay_rules
    from services.scheduler.relay.settings import RelaySettings

    kind, colon, name = principal.partition(":")
    if not (kind and colon and name):
        raise CommandError(f"--principal {principal!r}: Kafka's principals have a kind and a name, such as User:acme-reader.")
    if sum(map(bool, (tenant, all_tenants, relay))) != 1:
        raise CommandError("Say for whom: one of --tenant, --all-tenants and --relay.")
    with one_line_errors():
        settings = settings_of(RelaySettings)
    names = settings.topic_names
    if tenant and not names.per_tenant:
        raise CommandError(
            "Without KAFKA_TOPIC_PER_TENANT=true each topic has the events of all tenants, so none can be given to one alone;"
            " set it for relays, schedulers and this command, or say --all-tenants."
        )
    if relay:
        rules = relay_rules(principal, names)
    elif all_tenants and names.per_tenant:
        raise CommandError("With KAFKA_TOPIC_PER_TENANT each tenant has topics of its own; name one with --tenant.")
    else:
        rules = reader_rules(principal, names.of(names.owner(tenant)), group_prefix or (f"{tenant}." if tenant else "guildmesh."))
    for rule in rules:
        typer.echo(rule.command(settings.kafka_bootstrap_servers))
    if apply:
        _set(settings, rules)
        out.print(f"{len(rules)} rules are set.", highlight=False)


def _set(settings: RelaySettings, rules: Sequence[Rule]) -> None:
    from aiokafka.errors import ClusterAuthorizationFailedError, KafkaError, SecurityDisabled

    from services.common.kafka.topics import open_admin
    from services.scheduler.adapters.kafka_acls import set_rules

    async def run() -> None:
        async with open_admin(settings) as admin:
            await set_rules(admin, rules)

    try:
        asyncio.run(run())
    except SecurityDisabled:
        fail("This Kafka has no authorizer, so it keeps no rules, and everybody may do everything; set authorizer.class.name.")
    except ClusterAuthorizationFailedError:
        fail("Kafka does not let this principal alter its rules; use one that has Alter on the cluster, such as a super user.")
    except (KafkaError, OSError, TimeoutError) as error:
        fail(f"The rules could not be set: {str(error) or type(error).__name__}.")
