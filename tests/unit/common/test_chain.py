"""The chain: stages are entered outermost first and left inmost first, whatever happens within."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from services.common.grpcx.call import ServerCall
from services.common.grpcx.chain import ChainInterceptor, PassingStage, Refused
from services.common.grpcx.policy import MethodPolicy

POLICY = MethodPolicy("/a.B/C", "anonymous", frozenset(), frozenset(), True, "GRPC", "/a.B/C", "a.Request")


class Context:
    """Stands for grpc's."""

    def __init__(self) -> None:
        self.aborted: tuple[Any, ...] = ()

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", "1"), ("x-request-id", "2"))

    async def abort(self, *status: Any) -> None:
        self.aborted = status


class Noting(PassingStage):
    """Writes down what it is asked, and raises what it is told to."""

    after: tuple[str, ...] = ()

    def __init__(self, name: str, notes: list[str], *, enter: Exception | None = None, leave: Exception | None = None) -> None:
        self.name = name
        self._notes, self._enter, self._leave = notes, enter, leave

    def enter(self, call: ServerCall) -> None:
        self._notes.append(f"{self.name} in")
        if self._enter is not None:
            raise self._enter

    def leave(self, call: ServerCall, error: BaseException | None) -> None:
        self._notes.append(f"{self.name} out {type(error).__name__}")
        if self._leave is not None:
            raise self._leave


async def serve(stages: list[Noting], inner: Any, context: Context | None = None) -> Any:
    chain = ChainInterceptor(stages, {POLICY.method: POLICY})
    handler = grpc.unary_unary_rpc_method_handler(inner)

    class Details:
        method = POLICY.method

    async def continuation(_details: Any) -> Any:
        return handler

    wrapped: Any = await chain.intercept_service(continuation, Details())  # type: ignore[arg-type]
    return await wrapped.unary_unary("request", context or Context())


async def echo(request: Any, _context: Any) -> Any:
    return request


async def broken(_request: Any, _context: Any) -> Any:
    raise KeyError("x")


async def test_the_inmost_is_left_first() -> None:
    notes: list[str] = []
    assert await serve([Noting("a", notes), Noting("b", notes)], echo) == "request"
    assert notes == ["a in", "b in", "b out NoneType", "a out NoneType"]


async def test_a_stage_that_refuses_is_not_left_and_those_around_it_are() -> None:
    notes: list[str] = []
    with pytest.raises(LookupError):
        await serve([Noting("a", notes), Noting("b", notes, enter=LookupError()), Noting("c", notes)], echo)
    assert notes == ["a in", "b in", "a out LookupError"]


async def test_what_a_stage_makes_of_an_error_is_what_those_around_it_see() -> None:
    notes: list[str] = []
    context = Context()
    refused = Refused(grpc.StatusCode.NOT_FOUND, "gone", (("a", "b"),))
    await serve([Noting("a", notes), Noting("b", notes, leave=refused), Noting("c", notes)], broken, context)
    assert notes == ["a in", "b in", "c in", "c out KeyError", "b out KeyError", "a out Refused"]
    assert context.aborted == (grpc.StatusCode.NOT_FOUND, "gone", (("a", "b"),))


async def test_an_error_that_no_stage_takes_goes_on_as_it_is() -> None:
    with pytest.raises(KeyError):
        await serve([Noting("a", [])], broken)


async def test_a_stage_that_fails_after_a_good_answer_ends_the_call() -> None:
    notes: list[str] = []
    with pytest.raises(OSError, match="disk"):
        await serve([Noting("a", notes), Noting("b", notes, leave=OSError("disk"))], echo)
    assert notes[-2:] == ["b out NoneType", "a out OSError"]


async def test_a_cancelled_call_leaves_its_stages() -> None:
    notes: list[str] = []

    async def wait(_request: Any, _context: Any) -> None:
        await asyncio.Event().wait()

    call = asyncio.create_task(serve([Noting("a", notes)], wait))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert notes == ["a in", "a out CancelledError"]
