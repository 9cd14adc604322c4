"""Moves of payloads: uploaded, used as contexts and results, deleted, and swept when nothing uses them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.common.errors import ObjectNotFound
from services.scheduler.domain.errors import RequestIdReused
from services.scheduler.domain.payload import named_result, object_key
from services.scheduler.domain.payload_errors import PayloadInUse, PayloadNotFound
from services.scheduler.domain.task import State
from services.scheduler.domain.worker import CompletionReport
from tests.integration.scheduler.task_life.life import WORKER
from tests.integration.scheduler.task_life.model import TENANT
from tests.integration.scheduler.task_life.task_moves import TaskMoves

_PRIORITY, _ATTEMPTS = 2, 2
_TIME_PASSES = (
    "UPDATE payloads SET check_time = clock_timestamp() - interval '1 s' WHERE tenant_id = $1 AND payload_id = $2::text::uuid"
)


class PayloadMoves(TaskMoves):
    """What is done to payloads, and to tasks with them."""

    contexts: dict[str, tuple[str, str]]
    """task and text of the payload that was its context, by the request."""

    def upload(self, number: int) -> None:
        """One of a few bodies: some have the same."""
        self._upload(f"body {number % 3}")

    def _upload(self, body: str) -> str:
        payload = self.world.do(self.world.upload.execute(TENANT, "text/plain", _pieces(body)))
        assert payload.size == len(body)
        self.uploaded.append(payload.payload_id)
        self.bodies[payload.payload_id] = body
        self.world.seen["uploaded"] += 1
        return payload.payload_id

    def create_with(self, place: int, request: str) -> None:
        """A task whose context is a payload, which may be gone."""
        payload_id = self._payload(place)
        known = self.contexts.get(request)
        if known is not None and place % 3:
            # A repeat may have uploaded the same once more.
            payload_id = self._upload(known[1])
        queue = self.queues[0] if request else self.queue_at(self.order)
        task = self.asked(self.message(_PRIORITY, _ATTEMPTS, "context", queue=queue, context=payload_id), request)
        [answer] = self.world.do(self.world.batches.create([task]))
        body = self.bodies.get(payload_id)
        if body is None:
            assert isinstance(answer, PayloadNotFound), answer
            self.world.seen["context is gone"] += 1
            return
        if known is not None and known[1] != body:
            assert isinstance(answer, RequestIdReused), answer
            return
        assert not isinstance(answer, Exception), answer
        if known is not None:
            assert answer.task_id == known[0]
            self.world.seen["context before"] += 1
            self.world.seen["context like before"] += payload_id != self.models[known[0]].context
            return
        if request:
            self.contexts[request] = answer.task_id, body
        self.keep(answer.task_id, _PRIORITY, _ATTEMPTS, queue=queue).context = payload_id
        self.world.seen["context"] += 1

    def complete_with(self, place: int) -> None:
        """What runs completes with a payload as its result, which may be gone."""
        running = [model for model in self.models.values() if model.state is State.RUNNING and model.tenant == TENANT]
        if running:
            model = running[place % len(running)]
            named = named_result(self._payload(place))
            self.report([CompletionReport(None, WORKER, model.task_id, model.attempt, named)])

    def delete_payload(self, place: int) -> None:
        """Deletes one, unless a task uses it."""
        payload_id = self._perhaps_unused(place)
        deleting = self.world.delete_payload.execute(TENANT, payload_id)
        if payload_id not in self.bodies:
            with pytest.raises(PayloadNotFound):
                self.world.do(deleting)
        elif self._is_used(payload_id):
            with pytest.raises(PayloadInUse):
                self.world.do(deleting)
            self.world.seen["payload in use"] += 1
        else:
            self.world.do(deleting)
            del self.bodies[payload_id]
            self.world.seen["payload deleted"] += 1

    def sweep_payloads(self, place: int) -> None:
        """Its time has come for one of them: it goes if nothing uses it."""
        payload_id = self._perhaps_unused(place)
        self.world.query(_TIME_PASSES, TENANT, payload_id)
        gone = payload_id in self.bodies and not self._is_used(payload_id)
        assert self.world.do(self.world.sweep_payloads.sweep()) == gone
        if gone:
            del self.bodies[payload_id]
            self.world.seen["payload swept"] += 1

    def compare_payloads(self) -> None:
        """Each is there with what was uploaded, or is gone with its object."""
        for payload_id in self.uploaded:
            if payload_id in self.bodies:
                payload = self.world.do(self.world.read_payload.get(TENANT, payload_id))
                assert payload.size == len(self.bodies[payload_id])
                assert self.world.do(self._object(payload_id)) == self.bodies[payload_id].encode()
            else:
                with pytest.raises(PayloadNotFound):
                    self.world.do(self.world.read_payload.get(TENANT, payload_id))
                with pytest.raises(ObjectNotFound):
                    self.world.do(self._object(payload_id))

    async def _object(self, payload_id: str) -> bytes:
        return b"".join([piece async for piece in self.world.objects.get(object_key(TENANT, payload_id))])

    def _payload(self, place: int) -> str:
        """One that was uploaded, mostly one that is there still."""
        if not self.uploaded:
            self.upload(place)
        gone = [payload_id for payload_id in self.uploaded if payload_id not in self.bodies] if place % 3 == 0 else []
        line = gone or list(self.bodies) or self.uploaded
        return line[place % len(line)]

    def _perhaps_unused(self, place: int) -> str:
        unused = [payload_id for payload_id in self.bodies if not self._is_used(payload_id)]
        return unused[-1] if unused and place % 2 else self._payload(place)

    def _is_used(self, payload_id: str) -> bool:
        return any(payload_id in (model.context, model.payload) for model in self.models.values())


async def _pieces(body: str) -> AsyncIterator[bytes]:
    yield body[:3].encode()
    yield body[3:].encode()
