"""The model of this process behind the port Embedder: concurrent texts are embedded together, in a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from services.common.batcher import Batcher
from services.memory.adapters.minilm import MiniLm
from services.memory.domain.memory import Embedding

MAX_TEXTS = 100
"""texts in a batch (requirement row 7)."""


class LocalEmbedder:
    """Implements the port Embedder. What arrives while one batch is under way is the next; nobody waits for a timer."""

    def __init__(self, model: MiniLm, executor: ThreadPoolExecutor) -> None:
        self._model = model
        self._executor = executor
        self._batcher: Batcher[str, Embedding] = Batcher(self._embed, max_items=MAX_TEXTS, max_seconds=0, bisect=True)

    async def embed(self, text: str) -> Embedding:
        """The direction of a text."""
        return await self._batcher.submit(text)

    async def aclose(self) -> None:
        """Finishes what is under way."""
        await self._batcher.aclose()

    async def _embed(self, texts: Sequence[str]) -> Sequence[Embedding | Exception]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._embed_now, texts)

    def _embed_now(self, texts: Sequence[str]) -> list[Embedding | Exception]:
        return [vector.tolist() for vector in self._model.embed(texts)]


@asynccontextmanager
async def open_local_embedder(model: Path, tokenizer: Path, threads: int) -> AsyncIterator[LocalEmbedder]:
    """Loads the model (about 0.2 s) and closes it at the end."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedder") as executor:
        loaded = await asyncio.get_running_loop().run_in_executor(executor, MiniLm, model, tokenizer, threads)
        embedder = LocalEmbedder(loaded, executor)
        try:
            yield embedder
        finally:
            await embedder.aclose()
