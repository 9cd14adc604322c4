"""Starts the parts of a mesh by what they need, keeps them running, and stops them so that none is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from services.embedded.keeper import Keeper
from services.embedded.parts.part import Part
from services.embedded.status import GOOD, PartStatus, State


class Supervisor:
    """Drives a list of parts, one keeper each; they meet only by the events of those that they need."""

    def __init__(self, parts: Sequence[Part], logs: Path, held: Path, on_change: Callable[[], None] = lambda: None) -> None:
        """Describes the mesh.

        Args:
            parts: with unique names; each name in a part's needs must be among them.
            logs: folder for one log a part.
            held: folder in which a file with the name of a part stops it for as long as it lies there.
            on_change: called in the loop whenever a status changed.

        Raises:
            ValueError: a need is unknown or a name is used twice.
        """
        names = [part.name for part in parts]
        unknown = {need for part in parts for need in (*part.needs, *part.uses)} - set(names)
        if unknown or len(set(names)) != len(names):
            raise ValueError(f"names used twice, or needs that are no parts: {sorted(unknown)}")
        # A thread for each part and some more, so that a slow check or download delays no other part.
        self._threads = ThreadPoolExecutor(max_workers=len(names) + 4, thread_name_prefix="part")
        self._on_change = on_change
        self._settled = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._keepers = {
            part.name: Keeper(part, logs / f"{part.name}.log", held / part.name, self._threads, self._changed) for part in parts
        }
        self.status: dict[str, PartStatus] = {name: keeper.status for name, keeper in self._keepers.items()}

    @property
    def failed(self) -> list[PartStatus]:
        """The parts that were given up."""
        return [row for row in self.status.values() if row.state is State.FAILED]

    def start(self) -> None:
        """Begins to start everything; returns at once."""
        for keeper in self._keepers.values():
            needs = [self._keepers[need].healthy for need in keeper.part.needs]
            self._tasks.append(asyncio.create_task(keeper.run(needs)))

    async def settled(self) -> bool:
        """Waits until all parts are healthy at once (True), or one has failed for good (False)."""
        await self._settled.wait()
        return not self.failed

    async def stop(self) -> None:
        """Stops every part after those that need or use it, and kills what does not end in its time."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        gone = {name: asyncio.Event() for name in self._keepers}

        async def end(keeper: Keeper) -> None:
            for user in self._keepers.values():
                if keeper.part.name in (*user.part.needs, *user.part.uses):
                    await gone[user.part.name].wait()
            await keeper.stop()
            gone[keeper.part.name].set()

        await asyncio.gather(*(end(keeper) for keeper in self._keepers.values()))
        self._threads.shutdown(wait=False, cancel_futures=True)

    def kill(self) -> None:
        """Kills every process at once; for someone who asks twice."""
        for keeper in self._keepers.values():
            keeper.kill()

    def _changed(self) -> None:
        if self.failed or all(row.state in GOOD for row in self.status.values()):
            self._settled.set()
        self._on_change()
