from __future__ import annotations

from google.protobuf.struct_pb2 import Value
from guildmesh.scheduler.v1 import worker_service_pb2 as pb
from guildmesh_client.worker.reports import Reports, key_of


async def test_the_first_is_the_oldest_that_is_open() -> None:
    reports = Reports()
    assert reports.first() == []
    one, two = pb.TaskCompletion(task_id="1", attempt=1), pb.TaskFailure(task_id="2", attempt=1)
    reports.add(one)
    reports.add(two, ("2", 1, ""))
    assert reports.first() == [one]
    reports.answer(key_of(one), None)
    assert reports.first() == [two]


async def test_what_takes_the_place_of_a_step_is_answered_to_who_waits_for_it() -> None:
    reports = Reports()
    step = pb.TaskStep(task_id="t", attempt=1, step_id="s", result=Value(string_value="long"))
    answered = reports.add_awaited(step)
    reports.replace(pb.TaskStep(task_id="t", attempt=1, step_id="s"))
    assert reports.all() == [pb.TaskStep(task_id="t", attempt=1, step_id="s")]
    reports.answer(key_of(step), None)
    assert await answered is None
    assert len(reports) == 0
