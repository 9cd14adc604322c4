"""The sentence model all-MiniLM-L6-v2 on onnxruntime: texts to directions of 384 numbers.

The model reads 256 tokens. A longer text is cut into windows of that size, whose directions are averaged by their number of
tokens; of a very long text a few windows spread over the whole are read, so that the time a text may take is bounded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

MAX_TOKENS = 256
"""what the model was made for, its two marks included (sentence_bert_config.json of the model)."""
MAX_WINDOWS = 8
"""windows read of one text: 2,032 tokens, about 0.7 s of one core."""
_BATCH_TOKENS = 4 * MAX_TOKENS
"""tokens, padding included, given to the model at once; more is no faster on a core or two and takes 5 MB a window."""

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Window:
    text: int
    tokens: list[int]


class MiniLm:
    """The loaded model; its methods block, and one thread at a time may use it."""

    def __init__(self, model: Path, tokenizer: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The arena never gives back what the longest batch took: 640 MB were seen, 200 MB without it, at the same speed.
        options.enable_cpu_mem_arena = False
        # Idle threads sleep; spinning would take the cores from the rest of the mesh.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        _give_back_memory()
        self._begin, self._end = self._mark("[CLS]"), self._mark("[SEP]")

    def _mark(self, name: str) -> int:
        number = self._tokenizer.token_to_id(name)
        if number is None:
            raise ValueError(f"the tokenizer knows no {name}; GUILDMESH_EMBEDDING_TOKENIZER must be that of all-MiniLM-L6-v2.")
        return int(number)

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """The direction of each text, of length 1."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        windows = [
            _Window(number, [self._begin, *tokens, self._end])
            for number, encoding in enumerate(encodings)
            for tokens in windows_of(encoding.ids)
        ]
        # Windows of like length share a batch, so that little is spent on padding.
        windows.sort(key=lambda window: len(window.tokens))
        sums: list[Vector] = [np.zeros(0, np.float32)] * len(texts)
        for batch in _batches(windows):
            for window, pooled in zip(batch, self._pool(batch), strict=True):
                weighted = _unit(pooled) * len(window.tokens)
                sums[window.text] = weighted if sums[window.text].size == 0 else sums[window.text] + weighted
        return [_unit(total) for total in sums]

    def _pool(self, batch: Sequence[_Window]) -> Vector:
        """Mean of the last layer over the tokens of each window, padding left out."""
        width = max(len(window.tokens) for window in batch)
        tokens = np.zeros((len(batch), width), np.int64)
        mask = np.zeros_like(tokens)
        for row, window in enumerate(batch):
            tokens[row, : len(window.tokens)] = window.tokens
            mask[row, : len(window.tokens)] = 1
        inputs = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
        hidden: Any = self._session.run(["last_hidden_state"], inputs)[0]
        weights = mask[:, :, None].astype(np.float32)
        pooled: Vector = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        return pooled


def windows_of(tokens: Sequence[int]) -> list[list[int]]:
    """The windows to read of a text: all of a short one, MAX_WINDOWS spread evenly over a long one, one of an empty one."""
    size = MAX_TOKENS - 2
    starts = range(0, max(len(tokens), 1), size)
    chosen = (
        starts if len(starts) <= MAX_WINDOWS else [starts[round(step)] for step in np.linspace(0, len(starts) - 1, MAX_WINDOWS)]
    )
    return [list(tokens[start : start + size]) for start in chosen]


def _batches(windows: Sequence[_Window]) -> Iterator[Sequence[_Window]]:
    batch: list[_Window] = []
    for window in windows:
        if batch and len(window.tokens) * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _give_back_memory() -> None:
    """Loading leaves 60 MB of free heap behind, which glibc keeps unless it is told not to; elsewhere there is nothing to do."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector
