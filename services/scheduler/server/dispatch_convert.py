"""Between the messages of DispatchService and the domain."""

from __future__ import annotations

from guildmesh.scheduler.v1 import dispatch_service_pb2 as pb

from services.scheduler.domain.decision import Answer, Message, Start
from services.scheduler.domain.ports import Demand


def request_of(message: Message) -> pb.ExchangeRequest:
    """What a replica tells, on the wire."""
    return pb.ExchangeRequest(
        opened=[
            pb.DispatchDemand(
                number=number, tenant_id=demand.tenant_id or "", kinds=sorted(demand.kinds), queues=sorted(demand.queues)
            )
            for number, demand in message.opened
        ],
        closed=message.closed,
        offers=[pb.DispatchOffer(demand=number, worker_id=worker, slots=slots) for number, worker, slots in message.offers],
        waiting=[pb.DispatchWaiting(tenant_id=tenant, queue=queue, kind=kind) for tenant, queue, kind in message.waiting],
    )


def message_of(request: pb.ExchangeRequest) -> Message:
    """What a replica tells, from the wire."""
    return Message(
        opened=[
            (demand.number, Demand(demand.tenant_id or None, frozenset(demand.kinds), frozenset(demand.queues)))
            for demand in request.opened
        ],
        closed=list(request.closed),
        offers=[(offer.demand, offer.worker_id, offer.slots) for offer in request.offers],
        waiting=[(waiting.tenant_id, waiting.queue, waiting.kind) for waiting in request.waiting],
    )


def response_of(answer: Answer) -> pb.ExchangeResponse:
    """What the replica that decides answers, on the wire."""
    return pb.ExchangeResponse(
        wanted=[pb.DispatchWanted(demand=number, tasks=tasks, priority=priority) for number, tasks, priority in answer.wanted],
        starts=[
            pb.DispatchStart(demand=start.number, worker_id=start.worker_id, task_id=start.task_id, attempt=start.attempt)
            for start in answer.starts
        ],
        returned=[pb.DispatchOffer(demand=number, worker_id=worker, slots=slots) for number, worker, slots in answer.returned],
    )


def answer_of(response: pb.ExchangeResponse) -> Answer:
    """What the replica that decides answers, from the wire."""
    return Answer(
        wanted=[(wanted.demand, wanted.tasks, wanted.priority) for wanted in response.wanted],
        starts=[Start(start.demand, start.worker_id, start.task_id, start.attempt) for start in response.starts],
        returned=[(offer.demand, offer.worker_id, offer.slots) for offer in response.returned],
    )
