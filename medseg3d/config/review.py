"""Options of ``medseg3d review``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from medseg3d.config.options import ARGUMENT, FLAG, Options, flag


class ReviewConfig(Options):
    """Options of ``medseg3d review``."""

    predictions: Path = Field(
        description="Predicted label map, folder of them, or a run, for its held-out cases.",
        json_schema_extra=ARGUMENT,
    )
    images: tuple[Path, ...] | None = Field(
        None,
        min_length=1,
        description="Image or folder with the images that were predicted; repeatable. A run knows "
        "its own.",
        json_schema_extra=FLAG,
    )
    references: Path | None = Field(
        None,
        description="Reference label map or folder of them, to show where the predictions err.",
        json_schema_extra=FLAG,
    )
    scores: Path | None = Field(
        None,
        description="Table that medseg3d score wrote; default scores computed now, if there are "
        "references.",
        json_schema_extra=FLAG,
    )
    out: Path | None = Field(
        None,
        description="Folder to write; default review, or <run>/review.",
        json_schema_extra=flag("-o"),
    )
    title: str | None = Field(
        None,
        description="Heading of the page; default the name of the predictions' folder.",
        json_schema_extra=FLAG,
    )
    overwrite: bool = Field(
        False, description="Replace an existing review.", json_schema_extra=FLAG
    )
    channel: int = Field(0, ge=0, description="Channel of the images that is shown.")
    labels: dict[int, str] | None = Field(
        None, description="Label values and names; default all values found, names if known."
    )

    @field_validator("images", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, Path)) else value
