"""The payloads that workers name as results, in the transaction that ends their tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from services.scheduler.domain.payload import PayloadReference, PayloadUse, is_payload, named_payload, referenced_result
from services.scheduler.domain.payload_errors import PayloadNotFound
from services.scheduler.domain.run import Run
from services.scheduler.domain.worker import CompletionReport, Refusal, Report
from services.scheduler.storage.event_codec import encode_reference
from services.scheduler.storage.payload_uses import lock_payloads, use_payloads


@dataclass(slots=True)
class ResultPayloads:
    """Those that are there, and which of them became results."""

    _found: Mapping[tuple[str, str], PayloadReference] = field(default_factory=dict)
    _uses: list[tuple[str, str, str, PayloadUse]] = field(default_factory=list)

    @classmethod
    async def lock(cls, connection: asyncpg.Connection, reports: Sequence[Report], runs: Mapping[str, Run]) -> ResultPayloads:
        """Locks what the reports name, each in the tenant of its task."""
        keys = [
            (runs[report.task_id].tenant_id, named_payload(report.result))
            for report in reports
            if isinstance(report, CompletionReport) and is_payload(report.result) and report.task_id in runs
        ]
        return cls(await lock_payloads(connection, keys)) if keys else cls()

    def result_of(self, report: CompletionReport, run: Run) -> bytes | Refusal:
        """The result to keep of a run."""
        if not is_payload(report.result):
            return report.result
        payload_id = named_payload(report.result)
        found = self._found.get((run.tenant_id, payload_id))
        if found is None:
            return Refusal(PayloadNotFound.reason, PayloadNotFound(payload_id).message)
        self._uses.append((run.tenant_id, run.task_id, payload_id, PayloadUse.RESULT))
        return referenced_result(encode_reference(found))

    async def write(self, connection: asyncpg.Connection) -> None:
        """Writes which tasks have which payloads as their results."""
        await use_payloads(connection, self._uses)
