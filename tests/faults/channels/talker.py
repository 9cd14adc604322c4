"""The worker of these runs, a process of its own: each task makes so many steps, and tells of them as text and as progress.

`python -m tests.faults.channels.talker TARGET`, with the token in GUILDMESH_TOKEN.
"""

from __future__ import annotations

import asyncio
import os
import sys

from guildmesh_client.worker import JsonValue, Task, Worker

from tests.faults.channels.readers import KIND

_PAUSE = 0.1


async def main(target: str, token: str) -> None:
    """Works until it is told to stop."""
    worker = Worker(target, metadata=[("authorization", f"Bearer {token}")], concurrency=400)

    @worker.task(KIND)
    async def talk(task: Task) -> JsonValue:
        steps = int(float(str(task.context["steps"])))
        for number in range(steps):
            await task.step(f"step-{number}", _made)
            await task.output(f"step {number} of {task.task_id}\n")
            task.progress((number + 1) / steps)
        return {"steps": steps}

    await worker.run()


async def _made() -> JsonValue:
    await asyncio.sleep(_PAUSE)
    return "made"


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], os.environ["GUILDMESH_TOKEN"]))
