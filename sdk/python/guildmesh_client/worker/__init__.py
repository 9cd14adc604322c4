"""A worker in a few lines: functions that run tasks, and nothing of the protocol.

worker = Worker("localhost:8000", credentials=..., metadata=lambda: [("authorization", f"Bearer {fresh_token()}")])

@worker.task("report.write")
async def write_report(task: Task) -> JsonValue:
    figures = await task.step("figures", lambda: fetch_figures(task.context))
    return {"report": render(figures)}

asyncio.run(worker.run())
"""

from guildmesh_client.worker.dependency import Dependency
from guildmesh_client.worker.errors import ResultOmitted, StepRefused, TaskFailed, WorkerRefused
from guildmesh_client.worker.json_values import JsonObject, JsonValue
from guildmesh_client.worker.task import Task
from guildmesh_client.worker.worker import Worker

__all__ = [
    "Dependency",
    "JsonObject",
    "JsonValue",
    "ResultOmitted",
    "StepRefused",
    "Task",
    "TaskFailed",
    "Worker",
    "WorkerRefused",
]
