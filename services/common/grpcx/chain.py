"""The chain of interceptors, in a checked order.

grpc.aio lets an interceptor replace a method's handler. One interceptor does so for all of ours: it wraps each of the four kinds
of handler in the same stages, outermost first. A stage surrounds the call, and may look at every message that comes in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

import grpc

from services.common.errors import MalformedRequest
from services.common.grpcx.call import ServerCall
from services.common.grpcx.policy import MethodPolicy


class Stage(Protocol):
    """One interceptor of the chain. Plain functions rather than a context manager: six of those took 10 µs of every call."""

    name: str
    after: tuple[str, ...]
    """names of stages that must surround this one."""

    def enter(self, call: ServerCall) -> None:
        """Comes before the call, without waiting for anything; what it raises ends the call."""

    def leave(self, call: ServerCall, error: BaseException | None) -> None:
        """Comes after the call wherever `enter` did; `error` is what was raised within, and what this raises takes its place."""

    def on_message(self, call: ServerCall, message: Any) -> None:
        """Looks at (or amends) a message that came in; raises DomainError to refuse it."""


class PassingStage:
    """A stage that does nothing."""

    def enter(self, call: ServerCall) -> None:
        """Nothing to do before the call."""

    def leave(self, call: ServerCall, error: BaseException | None) -> None:
        """Nothing to do after the call; an error goes on as it is."""

    def on_message(self, call: ServerCall, message: Any) -> None:
        """Accepts the message as it is."""


class Refused(Exception):
    """The status that a call ends with instead of an answer; the context has it already when this is raised."""

    def __init__(self, code: grpc.StatusCode, message: str, trailers: tuple[tuple[str, str | bytes], ...]) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.trailers = trailers


class ChainOrderError(RuntimeError):
    """A stage stands before one that must surround it."""


def check_order(stages: Sequence[Stage]) -> None:
    """Raises ChainOrderError unless every stage stands after those it names in `after`."""
    seen: set[str] = set()
    for stage in stages:
        missing = [name for name in stage.after if name not in seen]
        if missing:
            raise ChainOrderError(f"the stage {stage.name!r} must come after {', '.join(missing)}")
        seen.add(stage.name)


class Malformed:
    """Stands for a request whose bytes could not be parsed, until the chain is in place to refuse it."""

    __slots__ = ("type_name",)

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name


class ChainInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of a server in the stages."""

    def __init__(self, stages: Sequence[Stage], policies: dict[str, MethodPolicy]) -> None:
        check_order(stages)
        self._stages = tuple(stages)
        self._inmost_first = tuple(reversed(stages))
        passing: object = PassingStage.on_message
        self._readers = tuple(stage for stage in stages if type(stage).on_message is not passing)
        self._policies = policies
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Gives the wrapped handler; a method that is not served stays UNIMPLEMENTED."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(handler, self._policies[method])
        return wrapped

    def _wrap(self, handler: Any, policy: MethodPolicy) -> grpc.RpcMethodHandler[Any, Any]:
        deserialize = _safe(handler.request_deserializer, policy.request_type)
        serialize = handler.response_serializer
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(handler.stream_stream, policy, True), deserialize, serialize
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._unary(handler.stream_unary, policy, True), deserialize, serialize)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(handler.unary_stream, policy, False), deserialize, serialize)
        return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary, policy, False), deserialize, serialize)

    def _unary(self, inner: Any, policy: MethodPolicy, streaming: bool) -> Any:
        async def serve(request: Any, context: Any) -> Any:
            call = ServerCall(policy, context)
            entered = 0
            try:
                try:
                    for stage in self._stages:
                        stage.enter(call)
                        entered += 1
                    answer = await inner(self._requests(call, request, streaming), context)
                except BaseException as error:
                    self._leave(call, entered, error)
                    raise
                self._leave(call, entered, None)
                return answer
            except Refused as refused:
                await context.abort(refused.code, refused.message, refused.trailers)

        return serve

    def _stream(self, inner: Any, policy: MethodPolicy, streaming: bool) -> Any:
        async def answer(request: Any, context: Any) -> None:
            await _write(inner(request, context), context)

        return self._unary(answer, policy, streaming)

    def _leave(self, call: ServerCall, entered: int, error: BaseException | None) -> None:
        """Ends the stages that were entered, the inmost first; raises what one of them raised last."""
        told = error
        for stage in self._inmost_first[len(self._stages) - entered :]:
            try:
                stage.leave(call, told)
            except BaseException as another:  # takes the place of the one before, whatever it is
                told = another
        if told is not None and told is not error:
            try:
                raise told
            finally:
                # Its traceback holds this frame; without this, only the garbage collector would free them.
                del told

    def _requests(self, call: ServerCall, request: Any, streaming: bool) -> Any:
        return self._read_stream(call, request) if streaming else self._read(call, request)

    def _read(self, call: ServerCall, message: Any) -> Any:
        if isinstance(message, Malformed):
            raise MalformedRequest(message.type_name)
        for stage in self._readers:
            stage.on_message(call, message)
        return message

    async def _read_stream(self, call: ServerCall, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for message in messages:
            yield self._read(call, message)


async def _write(answers: Any, context: Any) -> None:
    """Sends what a streaming handler gives; an old-style one sends for itself."""
    if not hasattr(answers, "__aiter__"):
        await answers
        return
    try:
        async for answer in answers:
            await context.write(answer)
    finally:
        await answers.aclose()


def _safe(deserialize: Callable[[bytes], Any], type_name: str) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception:  # whatever the parser raises, the bytes are not a message
            return Malformed(type_name)

    return parse
