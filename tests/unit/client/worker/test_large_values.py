from __future__ import annotations

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from guildmesh_client.worker.large_values import not_read, not_stored, persistently


def broken(code: grpc.StatusCode) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(), "it broke")


class Calls:
    """Fails with each of the errors, then gives the number of calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.made = 0

    async def __call__(self) -> int:
        self.made += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.made


async def test_a_call_is_made_again_while_its_trouble_may_pass() -> None:
    calls = Calls(ConnectionError("no stream"), broken(grpc.StatusCode.UNAVAILABLE), broken(grpc.StatusCode.INTERNAL))
    assert await persistently(calls, 10) == 4


async def test_what_will_not_pass_is_raised_at_once() -> None:
    calls = Calls(broken(grpc.StatusCode.NOT_FOUND))
    with pytest.raises(AioRpcError):
        await persistently(calls, 10)
    assert calls.made == 1


async def test_it_gives_up_when_its_time_is_over() -> None:
    calls = Calls(*(ConnectionError(str(number)) for number in range(100)))
    with pytest.raises(ConnectionError):
        await persistently(calls, 0.3)
    assert 2 <= calls.made <= 5


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (broken(grpc.StatusCode.UNAVAILABLE), True),
        (ConnectionError("no stream"), True),
        (broken(grpc.StatusCode.NOT_FOUND), False),
        (broken(grpc.StatusCode.PERMISSION_DENIED), False),
        (ValueError("Expecting value"), False),
    ],
)
def test_what_is_gone_is_not_read_by_another_attempt_either(error: Exception, retryable: bool) -> None:
    failed = not_read("The context", error)
    assert (failed.reason, failed.retryable) == ("INPUT_NOT_READ", retryable)
    assert failed.message.startswith("The context is a payload that cannot be read: ")


def test_a_result_may_be_stored_by_another_attempt() -> None:
    failed = not_stored(broken(grpc.StatusCode.UNAVAILABLE))
    assert (failed.reason, failed.retryable) == ("RESULT_NOT_STORED", True)
    assert failed.message.endswith("UNAVAILABLE: it broke")
