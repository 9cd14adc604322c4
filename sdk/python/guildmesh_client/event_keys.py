"""Reading events that are encrypted on Kafka, with the keys of their users."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import grpc
from guildmesh.events.v1 import task_event_pb2
from guildmesh.scheduler.v1 import event_key_service_pb2 as pb
from guildmesh.scheduler.v1 import event_key_service_pb2_grpc as pb_grpc

Metadata: TypeAlias = Sequence[tuple[str, str]]

_MOST_KNOWN = 10_000
_SECONDS = 10.0
_REMEMBERED_SECONDS = 300.0
_GONE = (grpc.StatusCode.NOT_FOUND,)


class KeyNotGiven(Exception):
    """The key of an event is not the caller's to have, or was destroyed when its user was erased."""


class WrongKey(Exception):
    """The event was not encrypted with this key, or it was changed since."""


def open_event(event: task_event_pb2.TaskEvent, key: bytes) -> task_event_pb2.TaskEvent:
    """The event with all of its texts, by the key that GetEventKey gives; needs the package `cryptography`.

    Raises:
        ValueError: nothing of it is encrypted.
        WrongKey: it was encrypted with another key, or changed.
    """
    if not event.encrypted_event:
        raise ValueError("nothing of this event is encrypted; see its field content")
    belongs = f"guildmesh.events.v1.TaskEvent/{event.data_key_id}/{event.task_id}/{event.number}".encode()
    aead, failed = _aes_siv(key)
    try:
        return task_event_pb2.TaskEvent.FromString(aead.decrypt(event.encrypted_event, [belongs]))
    except failed as error:
        raise WrongKey(f"event {event.number} of the task {event.task_id} does not open with this key") from error


class EventKeys:
    """Opens events, and asks for each key once in five minutes: so long it may be known here after its user is erased."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata | Callable[[], Metadata] = ()) -> None:
        """`metadata` has the token of a user with the role admin, or of the user whose events they are."""
        self._stub: pb_grpc.EventKeyServiceAsyncStub = pb_grpc.EventKeyServiceStub(channel)
        self._metadata = metadata
        self._known: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    async def open(self, event: task_event_pb2.TaskEvent) -> task_event_pb2.TaskEvent:
        """The event with all of its texts; one of which nothing is encrypted comes back as it is.

        Raises:
            KeyNotGiven, WrongKey.
            grpc.aio.AioRpcError: the mesh does not answer, or refuses the token.
        """
        if not event.encrypted_event:
            return event
        return open_event(event, await self._key(event.data_key_id))

    async def _key(self, key_id: str) -> bytes:
        now = asyncio.get_running_loop().time()
        read_at, key = self._known.get(key_id, (0.0, b""))
        if key and now - read_at < _REMEMBERED_SECONDS:
            return key
        metadata = tuple(self._metadata() if callable(self._metadata) else self._metadata)
        try:
            answer = await self._stub.GetEventKey(pb.GetEventKeyRequest(key_id=key_id), metadata=metadata, timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() in _GONE:
                self._known.pop(key_id, None)
                raise KeyNotGiven(error.details() or key_id) from error
            raise
        self._known[key_id] = (now, answer.key)
        self._known.move_to_end(key_id)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return answer.key


def _aes_siv(key: bytes) -> tuple[Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV
    except ImportError as error:
        raise ImportError("to open encrypted events install the package 'cryptography' (the extra 'encryption')") from error
    return AESSIV(key), InvalidTag
