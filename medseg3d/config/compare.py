"""Options of ``medseg3d compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from medseg3d.config.options import ARGUMENT, FLAG, Options, flag, one_by_one


class CompareConfig(Options):
    """Options of ``medseg3d compare``."""

    tables: tuple[Path, ...] = Field(
        min_length=1,
        description="Tables of medseg3d score, one per model, or one with several models.",
        json_schema_extra=ARGUMENT,
    )
    out: Path = Field(
        Path("comparison.csv"),
        description="Table to write; everything goes beside it as .json, and a figure.",
        json_schema_extra=flag("-o"),
    )
    columns: tuple[str, ...] | None = Field(
        None,
        description="Columns of scores to compare, such as dice, with commas between them or "
        "repeated; default all.",
        json_schema_extra=FLAG,
    )
    baseline: str | None = Field(
        None,
        description="Compare all other models with this one only; default each with each.",
        json_schema_extra=FLAG,
    )
    attributes: Path | None = Field(
        None,
        description="CSV with a column case or patient and a column for each attribute (site, "
        "sex, lesion size): the models are compared in each group too.",
        json_schema_extra=FLAG,
    )
    figure: Literal["png", "svg", "none"] = Field(
        "png", description="Kind of the figure.", json_schema_extra=FLAG
    )
    overwrite: bool = Field(False, description="Replace existing files.", json_schema_extra=FLAG)
    level: float = Field(
        0.95, gt=0, lt=1, description="Coverage of the intervals; tests are judged at one minus it."
    )
    resamples: int = Field(
        2000, ge=100, le=1_000_000, description="Resamples of the patients behind each interval."
    )
    seed: int = Field(0, ge=0, description="Start of the random generator of the resamples.")
    family: Literal["measure", "table"] = Field(
        "measure",
        description="P values are corrected over all labels and pairs of models of a measure, or "
        "over all measures of the table too.",
    )

    @field_validator("columns", mode="before")
    @classmethod
    def _one_by_one(cls, value: Any) -> Any:
        return one_by_one(value)

    @field_validator("out")
    @classmethod
    def _csv(cls, value: Path) -> Path:
        if value.suffix.lower() != ".csv":
            raise ValueError(f"the table is written as CSV, so {value.name} must end in .csv")
        return value
