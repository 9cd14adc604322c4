"""Where the parts of the scheduler are chosen and put together."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from guildmesh.scheduler.v1.dead_letter_service_pb2_grpc import add_DeadLetterServiceServicer_to_server
from guildmesh.scheduler.v1.dispatch_service_pb2_grpc import add_DispatchServiceServicer_to_server
from guildmesh.scheduler.v1.event_key_service_pb2_grpc import add_EventKeyServiceServicer_to_server
from guildmesh.scheduler.v1.event_log_service_pb2_grpc import add_EventLogServiceServicer_to_server
from guildmesh.scheduler.v1.payload_service_pb2_grpc import add_PayloadServiceServicer_to_server
from guildmesh.scheduler.v1.queue_service_pb2_grpc import add_QueueServiceServicer_to_server
from guildmesh.scheduler.v1.schedule_service_pb2_grpc import add_ScheduleServiceServicer_to_server
from guildmesh.scheduler.v1.scheduler_service_pb2_grpc import add_SchedulerServiceServicer_to_server
from guildmesh.scheduler.v1.webhook_service_pb2_grpc import add_WebhookServiceServicer_to_server

from services.common.db.driver import open_driver
from services.common.db.engine_role import EngineDriver
from services.common.grpcx.server import Registration
from services.common.ids import new_id
from services.common.service import Service
from services.common.storage.object_store import open_object_store
from services.scheduler.adapters.event_topic import EventTopic
from services.scheduler.adapters.listener import Listener
from services.scheduler.adapters.webhook_event import ping
from services.scheduler.adapters.webhook_sender import open_webhook_sender
from services.scheduler.domain.decision import Answer, Link
from services.scheduler.domain.event_content_ports import EventContents
from services.scheduler.domain.payload_ports import Objects, PayloadStore
from services.scheduler.domain.ports import (
    DeadLetterStore,
    QueueStore,
    ScheduleStore,
    TaskBatches,
    TaskReader,
    TaskReplayer,
)
from services.scheduler.domain.told import Told
from services.scheduler.domain.webhook_ports import EventSender, WebhookStore
from services.scheduler.domain.webhook_url import WebhookTargets
from services.scheduler.domain.worker import Heartbeat, OutputReport, Refusal, Report
from services.scheduler.server.dead_letter_convert import replayed_task
from services.scheduler.server.dead_letter_servicer import DeadLetterServicer, DeadLetterUseCases
from services.scheduler.server.dispatch_link import DispatchLink
from services.scheduler.server.dispatch_servicer import SERVICE as DISPATCH_SERVICE
from services.scheduler.server.dispatch_servicer import DispatchServicer
from services.scheduler.server.event_key_servicer import EventKeyServicer, EventKeyUseCases
from services.scheduler.server.event_log_servicer import SERVICE as EVENT_LOG_SERVICE
from services.scheduler.server.event_log_servicer import EventLogServicer
from services.scheduler.server.payload_servicer import PayloadServicer, PayloadUseCases
from services.scheduler.server.queue_servicer import QueueServicer, QueueUseCases
from services.scheduler.server.schedule_convert import scheduled_task
from services.scheduler.server.schedule_servicer import ScheduleServicer, ScheduleUseCases
from services.scheduler.server.scheduler_servicer import SchedulerServicer, UseCases
from services.scheduler.server.webhook_servicer import WebhookServicer, WebhookUseCases
from services.scheduler.server.worker_servicer import SERVICE as WORKER_SERVICE
from services.scheduler.server.worker_servicer import WorkerServicer, add_worker_service
from services.scheduler.settings import SchedulerSettings
from services.scheduler.storage.batches import Batches
from services.scheduler.storage.cancel import Cancellations
from services.scheduler.storage.dead_letters import DeadLetters
from services.scheduler.storage.decided_queues import SETTLED, DecidedQueues, QueueList
from services.scheduler.storage.decisions import DecisionStatements
from services.scheduler.storage.dispatch_owners import DispatchOwners
from services.scheduler.storage.event_contents import EventContents as StoredContents
from services.scheduler.storage.event_keys import EventKeys
from services.scheduler.storage.expiry import Expiry
from services.scheduler.storage.fire_batch import DueSchedules
from services.scheduler.storage.graphs import Graphs
from services.scheduler.storage.open_counts import OpenTasks
from services.scheduler.storage.partitions import Partitions
from services.scheduler.storage.payload_sweep import PayloadSweep
from services.scheduler.storage.payloads import Payloads
from services.scheduler.storage.queues import StoredQueues
from services.scheduler.storage.replays import FailedTasks
from services.scheduler.storage.schedules import Schedules
from services.scheduler.storage.sealing import Sealing
from services.scheduler.storage.signals import Signals
from services.scheduler.storage.tasks import Tasks
from services.scheduler.storage.webhook_secrets import WebhookSecrets
from services.scheduler.storage.webhooks import Webhooks
from services.scheduler.usecases.append_events import AppendEvents
from services.scheduler.usecases.backfill_schedule import BackfillSchedule
from services.scheduler.usecases.cancel_task import CancelTask
from services.scheduler.usecases.count_own_tasks import CountOwnTasks
from services.scheduler.usecases.count_tasks import CountTasks
from services.scheduler.usecases.create_queue import CreateQueue
from services.scheduler.usecases.create_schedule import CreateSchedule
from services.scheduler.usecases.create_task import CreateTask
from services.scheduler.usecases.create_task_graph import CreateTaskGraph
from services.scheduler.usecases.create_webhook import CreateWebhook
from services.scheduler.usecases.decide_starts import DecideStarts
from services.scheduler.usecases.delete_dead_letters import DeleteDeadLetters
from services.scheduler.usecases.delete_payload import DeletePayload
from services.scheduler.usecases.delete_queue import DeleteQueue
from services.scheduler.usecases.delete_schedule import DeleteSchedule
from services.scheduler.usecases.delete_webhook import DeleteWebhook
from services.scheduler.usecases.dispatch import Dispatcher
from services.scheduler.usecases.erase_user_keys import EraseUserKeys
from services.scheduler.usecases.event_tail import EventTail
from services.scheduler.usecases.expire_tasks import ExpireTasks
from services.scheduler.usecases.failed_deliveries import FailedDeliveries
from services.scheduler.usecases.fire_schedules import FireSchedules
from services.scheduler.usecases.follow_owner import FollowOwner
from services.scheduler.usecases.get_dead_letter import GetDeadLetter
from services.scheduler.usecases.get_event_key import GetEventKey
from services.scheduler.usecases.get_queue import GetQueue
from services.scheduler.usecases.get_schedule import GetSchedule
from services.scheduler.usecases.get_task import GetTask
from services.scheduler.usecases.get_webhook import GetWebhook
from services.scheduler.usecases.group_commit import GroupCommit
from services.scheduler.usecases.hub import Hub
from services.scheduler.usecases.list_dead_letters import ListDeadLetters
from services.scheduler.usecases.list_queues import ListQueues
from services.scheduler.usecases.list_schedules import ListSchedules
from services.scheduler.usecases.list_tasks import ListTasks
from services.scheduler.usecases.list_webhooks import ListWebhooks
from services.scheduler.usecases.offer_slots import SlotOffers
from services.scheduler.usecases.pause_queue import PauseQueue
from services.scheduler.usecases.pause_schedule import PauseSchedule
from services.scheduler.usecases.pause_webhook import PauseWebhook
from services.scheduler.usecases.queues import Queues
from services.scheduler.usecases.read_payload import ReadPayload
from services.scheduler.usecases.replay_dead_letters import ReplayDeadLetters
from services.scheduler.usecases.replay_task import ReplayTask
from services.scheduler.usecases.replay_webhook import ReplayWebhook
from services.scheduler.usecases.resume_schedule import ResumeSchedule
from services.scheduler.usecases.rotate_webhook_secret import RotateWebhookSecret
from services.scheduler.usecases.run_task import RunTask
from services.scheduler.usecases.signal_task import SignalTask
from services.scheduler.usecases.sweep import Sweeper
from services.scheduler.usecases.sweep_payloads import SweepPayloads
from services.scheduler.usecases.tell_parents import TellParents
from services.scheduler.usecases.test_webhook import TestWebhook
from services.scheduler.usecases.timer import Timer
from services.scheduler.usecases.topic_pages import TopicPages
from services.scheduler.usecases.trigger_schedule import TriggerSchedule
from services.scheduler.usecases.update_queue import UpdateQueue
from services.scheduler.usecases.update_schedule import UpdateSchedule
from services.scheduler.usecases.update_webhook import UpdateWebhook
from services.scheduler.usecases.upload_payload import UploadPayload
from services.scheduler.usecases.watch_own_topics import WatchOwnTopics
from services.scheduler.usecases.watch_task import WatchTask
from services.scheduler.usecases.watch_tasks import WatchTasks
from services.scheduler.usecases.work import Work

SCHEMA = "scheduler"
PAYLOAD_SERVICE = "guildmesh.scheduler.v1.PayloadService"


@asynccontextmanager
async def open_service(settings: SchedulerSettings) -> AsyncIterator[Service]:
    """The scheduler over the database of `settings`."""
    targets = settings.webhook_targets
    async with (
        open_driver(settings, SCHEMA) as database,
        open_webhook_sender(targets, settings.webhook_timeout_seconds) as sender,
    ):
        hub = Hub(origin=new_id())
        reader = Tasks(database)
        engine = EngineDriver(database)
        event_keys = EventKeys(engine, settings.master_keys)
        webhook_secrets = WebhookSecrets(settings.master_keys)
        contents = hub.contents = StoredContents(engine, event_keys, settings.contents)
        hub.listen(contents.woken)
        decided = DecidedQueues(engine)
        dispatch = _dispatch(settings, engine, hub)
        batches = Batches(engine, hub, settings.lease, decided)
        dispatcher = Dispatcher(batches, hub, settings.lease_poll_seconds, dispatch.offers, decided, dispatch.decide)
        stored_queues = StoredQueues(database, engine, hub)
        queues = Queues(stored_queues, settings.retention_days)
        hub.listen(queues.woken)
        create_task = CreateTask(batches, queues, dispatcher)
        run_task = RunTask(create_task, reader, hub, settings.watch_poll_seconds)
        count_tasks = CountTasks(batches)
        use_cases = UseCases(
            create_task=create_task,
            create_task_graph=CreateTaskGraph(Graphs(database, hub, settings.lease, decided), queues),
            run_task=run_task,
            get_task=GetTask(reader),
            list_tasks=ListTasks(reader),
            cancel_task=CancelTask(Cancellations(database, hub)),
            signal_task=SignalTask(Signals(database, hub)),
            watch_task=WatchTask(reader, hub, settings.watch_poll_seconds),
            list_queues=ListQueues(stored_queues),
            count_tasks=count_tasks,
        )
        work = _work(settings, batches, dispatcher, hub)
        append_events = AppendEvents(GroupCommit[Told, int | Refusal](batches.append, weigh=lambda told: len(told.change.body)))
        tell_parents = TellParents(batches, settings.sweep_seconds)
        hub.listen(tell_parents.woken)
        expire_tasks = ExpireTasks(Partitions(engine, settings.retention_days), Expiry(engine), settings.retention_seconds)
        timer = Timer(batches, settings.timer_poll_seconds)
        due_schedules = DueSchedules(engine, hub, settings.lease, settings.retention_days, scheduled_task, decided)
        fire_schedules = FireSchedules(due_schedules, settings.schedule_poll_seconds)
        schedules = Schedules(database, hub, settings.lease, settings.retention_days, decided, settings.max_schedules)
        failed_tasks = FailedTasks(database, hub, settings.lease, settings.retention_days, replayed_task, decided)
        objects = open_object_store(
            settings.object_store, settings.object_store_endpoint, settings.object_store_region, settings.object_store_keys
        )
        again = timedelta(seconds=6 * settings.payload_sweep_seconds)
        payload_sweep = PayloadSweep(engine, timedelta(seconds=settings.payload_check_seconds), again)
        hub.listen(lambda wake: decided.changed() if wake.queues is None or wake.queues else None)
        watch_tasks, stop_watching = _watch_tasks(settings, reader)
        listener = Listener(settings.database_url.get_secret_value(), hub.notified, "guildmesh-scheduler-listen")
        try:
            yield Service(
                name="scheduler",
                registrations=[
                    Registration(
                        add_SchedulerServiceServicer_to_server,
                        SchedulerServicer(use_cases, watch_tasks, settings.sse_keep_alive_seconds),
                        "guildmesh.scheduler.v1.SchedulerService",
                    ),
                    Registration(
                        add_ScheduleServiceServicer_to_server,
                        ScheduleServicer(_schedule_use_cases(schedules, queues)),
                        "guildmesh.scheduler.v1.ScheduleService",
                    ),
                    Registration(
                        add_QueueServiceServicer_to_server,
                        QueueServicer(_queue_use_cases(stored_queues, contents, count_tasks, CountOwnTasks(OpenTasks(engine)))),
                        "guildmesh.scheduler.v1.QueueService",
                    ),
                    Registration(
                        add_DeadLetterServiceServicer_to_server,
                        DeadLetterServicer(_dead_letter_use_cases(DeadLetters(database), failed_tasks)),
                        "guildmesh.scheduler.v1.DeadLetterService",
                    ),
                    Registration(
                        add_PayloadServiceServicer_to_server,
                        PayloadServicer(_payload_use_cases(settings, Payloads(database), objects)),
                        PAYLOAD_SERVICE,
                    ),
                    Registration(
                        add_WebhookServiceServicer_to_server,
                        WebhookServicer(
                            _webhook_use_cases(Webhooks(database, settings.max_webhooks, webhook_secrets), targets, sender)
                        ),
                        "guildmesh.scheduler.v1.WebhookService",
                    ),
                    Registration(
                        add_EventKeyServiceServicer_to_server,
                        EventKeyServicer(EventKeyUseCases(GetEventKey(event_keys), EraseUserKeys(event_keys, contents))),
                        "guildmesh.scheduler.v1.EventKeyService",
                    ),
                    Registration(add_worker_service, WorkerServicer(work), WORKER_SERVICE),
                    Registration(add_DispatchServiceServicer_to_server, dispatch.servicer, DISPATCH_SERVICE),
                    Registration(add_EventLogServiceServicer_to_server, EventLogServicer(append_events), EVENT_LOG_SERVICE),
                ],
                background=[
                    listener.run,
                    decided.run,
                    contents.run,
                    Sealing(engine, event_keys, webhook_secrets).run,
                    dispatch.decide.run,
                    dispatch.follow.run,
                    Sweeper(batches, settings.sweep_seconds).run,
                    timer.run,
                    tell_parents.run,
                    expire_tasks.run,
                    fire_schedules.run,
                    SweepPayloads(payload_sweep, objects, settings.payload_sweep_seconds).run,
                ],
                checks={"database": database.check},
                # Tasks without payloads go on without it.
                apart={PAYLOAD_SERVICE: objects.check},
                drain=[run_task.drain, work.drain, dispatch.follow.resign, dispatch.servicer.drain],
                serving=[lambda port: dispatch.follow.reachable(_address(settings, port))],
            )
        finally:
            await create_task.drained()
            await dispatcher.close()
            await dispatch.offers.drained()
            await work.drain()
            await append_events.drained()
            await stop_watching()


def _watch_tasks(
    settings: SchedulerSettings, reader: TaskReader
) -> tuple[WatchTasks | WatchOwnTopics, Callable[[], Awaitable[None]]]:
    """What watches all tasks of a tenant, and what ends it."""
    keep_alive = settings.sse_keep_alive_seconds
    if settings.topic_per_tenant:
        own = WatchOwnTopics(partial(EventTopic, settings), reader, keep_alive)
        return own, own.close
    topic = EventTopic(settings)
    tail, pages = EventTail(topic), TopicPages(topic)

    async def close() -> None:
        await tail.close()
        await pages.close()

    return WatchTasks(tail, pages, topic, reader, keep_alive), close


@dataclass(frozen=True, slots=True)
class _Dispatch:
    """How one replica decides for all, as far as this one has a part in it."""

    decide: DecideStarts
    offers: SlotOffers
    follow: FollowOwner
    servicer: DispatchServicer


def _dispatch(settings: SchedulerSettings, engine: EngineDriver, hub: Hub) -> _Dispatch:
    lease = settings.dispatch_lease
    owners = DispatchOwners(engine, lease)
    statements = DecisionStatements(engine, owners, hub, settings.lease)
    decide = DecideStarts(hub.origin, statements, QueueList(engine), hub, settings.lease_seconds, SETTLED)
    offers = SlotOffers(statements)

    def connect(address: str, received: Callable[[Link, Answer], None], lost: Callable[[Link], None]) -> Link:
        return DispatchLink(address, settings.tls_dir, received, lost)

    # Several times within a lease, so that one that is late loses nothing.
    follow = FollowOwner(hub.origin, owners, decide, offers, connect, lease.total_seconds() / 4)
    return _Dispatch(decide, offers, follow, DispatchServicer(decide))


def _address(settings: SchedulerSettings, port: int) -> str:
    """Where the other schedulers reach this one, which answers on `port`."""
    if settings.dispatch_address:
        return settings.dispatch_address
    host = settings.listen_host
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = socket.gethostname()
        with suppress(OSError):
            host = socket.gethostbyname(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _schedule_use_cases(store: ScheduleStore, queues: Queues) -> ScheduleUseCases:
    return ScheduleUseCases(
        create_schedule=CreateSchedule(store, queues),
        get_schedule=GetSchedule(store),
        list_schedules=ListSchedules(store),
        update_schedule=UpdateSchedule(store, queues),
        delete_schedule=DeleteSchedule(store),
        pause_schedule=PauseSchedule(store),
        resume_schedule=ResumeSchedule(store),
        trigger_schedule=TriggerSchedule(store, scheduled_task),
        backfill_schedule=BackfillSchedule(store, scheduled_task),
    )


def _queue_use_cases(
    store: QueueStore, contents: EventContents, count_tasks: CountTasks, count_own_tasks: CountOwnTasks
) -> QueueUseCases:
    return QueueUseCases(
        create_queue=CreateQueue(store, contents),
        get_queue=GetQueue(store),
        update_queue=UpdateQueue(store, contents),
        delete_queue=DeleteQueue(store),
        pause_queue=PauseQueue(store, paused=True),
        resume_queue=PauseQueue(store, paused=False),
        count_tasks=count_tasks,
        count_own_tasks=count_own_tasks,
    )


def _dead_letter_use_cases(store: DeadLetterStore, replayer: TaskReplayer) -> DeadLetterUseCases:
    return DeadLetterUseCases(
        list_dead_letters=ListDeadLetters(store),
        get_dead_letter=GetDeadLetter(store),
        replay_task=ReplayTask(replayer),
        replay_dead_letters=ReplayDeadLetters(replayer),
        delete_dead_letters=DeleteDeadLetters(store),
    )


def _payload_use_cases(settings: SchedulerSettings, store: PayloadStore, objects: Objects) -> PayloadUseCases:
    longest = timedelta(seconds=settings.payload_upload_seconds)
    unused = timedelta(seconds=settings.payload_unused_seconds)
    return PayloadUseCases(
        upload_payload=UploadPayload(store, objects, settings.payload_max_bytes, longest, unused),
        read_payload=ReadPayload(store, objects),
        delete_payload=DeletePayload(store, objects),
    )


def _webhook_use_cases(store: WebhookStore, targets: WebhookTargets, sender: EventSender) -> WebhookUseCases:
    return WebhookUseCases(
        create_webhook=CreateWebhook(store, targets),
        get_webhook=GetWebhook(store),
        list_webhooks=ListWebhooks(store),
        update_webhook=UpdateWebhook(store, targets),
        delete_webhook=DeleteWebhook(store),
        pause_webhook=PauseWebhook(store, paused=True),
        resume_webhook=PauseWebhook(store, paused=False),
        rotate_webhook_secret=RotateWebhookSecret(store),
        test_webhook=TestWebhook(store, sender, ping),
        replay_webhook=ReplayWebhook(store),
        failed_deliveries=FailedDeliveries(store),
    )


def _work(settings: SchedulerSettings, batches: TaskBatches, dispatcher: Dispatcher, hub: Hub) -> Work:
    reports: GroupCommit[Report, Refusal | None] = GroupCommit(batches.report, weigh=_report_weight)
    completions: GroupCommit[Report, Refusal | None] = GroupCommit(batches.report, weigh=_report_weight, abreast=2)
    heartbeats: GroupCommit[Heartbeat, str] = GroupCommit(batches.heartbeat)
    return Work(reports, completions, heartbeats, dispatcher, hub, settings.lease, settings.heartbeat, settings.token_renewal)


def _report_weight(report: Report) -> int:
    return len(report.text) if isinstance(report, OutputReport) else len(getattr(report, "result", b""))
