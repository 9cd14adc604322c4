"""Which webhooks want which records of the topic."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from services.scheduler.domain.event_topic_ports import EventTopic, Record
from services.scheduler.domain.ports import TaskReader
from services.scheduler.domain.positions import Positions
from services.scheduler.domain.published import Published
from services.scheduler.webhooks.registry import Known, microseconds_of
from services.scheduler.webhooks.waiting import Backlog, Wanted


class Matching:
    """Reads what webhooks want out of records, with the filters of WatchTasks."""

    def __init__(self, topic: EventTopic, reader: TaskReader, partitions: Sequence[int]) -> None:
        self._topic = topic
        self._reader = reader
        self._place = {partition: place for place, partition in enumerate(partitions)}

    async def of(
        self,
        records: Sequence[Record],
        webhooks: Callable[[str], Iterable[Known]],
        backlogs: Mapping[str, Backlog],
    ) -> list[Wanted]:
        """What the webhooks of each record's tenant want of it, from where they begin and stand; raises what the reader does."""
        found: dict[str, tuple[Known, list[Published]]] = {}
        for record in records:
            event = None
            for known in webhooks(record.tenant_id):
                if event is None:
                    event = self._topic.parse(record)
                if event.time_us < known.start_us:
                    continue
                backlog = backlogs.get(known.uid)
                if backlog is not None and self._is_before(event, backlog):
                    continue
                if known.wanted.meets(event):
                    found.setdefault(known.uid, (known, []))[1].append(event)
        wanted: list[Wanted] = []
        for known, events in found.values():
            tenant_id = known.webhook.tenant_id
            met = await self._met(known, {event.task_id for event in events})
            wanted += [
                Wanted(tenant_id, known.uid, event.task_id, event.number, event.value, event.traceparent)
                for event in events
                if met is None or event.task_id in met
            ]
        return wanted

    async def _met(self, known: Known, task_ids: Collection[str]) -> Collection[str] | None:
        """Which of the tasks meet the conditions on tasks; None for all, where there are no such conditions."""
        if not known.wanted.of_tasks:
            return None
        return set(await self._reader.meeting(known.webhook.tenant_id, task_ids, known.wanted.of_tasks))

    def _is_before(self, event: Published, backlog: Backlog) -> bool:
        positions: Positions | None = backlog.positions
        if positions is not None and event.offset < positions[self._place[event.partition]]:
            return True
        return event.time_us < microseconds_of(backlog.start_time)
