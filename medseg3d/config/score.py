"""Options of ``medseg3d score``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from medseg3d.config.options import ARGUMENT, FLAG, Options, flag


class ScoreConfig(Options):
    """Options of ``medseg3d score``."""

    predictions: Path = Field(
        description="Predicted label map or folder of them.", json_schema_extra=ARGUMENT
    )
    references: Path = Field(
        description="Reference label map or folder of them.", json_schema_extra=ARGUMENT
    )
    out: Path = Field(
        Path("scores.csv"),
        description="Table to write; the summary goes beside it as .json.",
        json_schema_extra=flag("-o"),
    )
    skip_unpaired: bool = Field(
        False,
        description="Leave out predictions without a reference and references without a "
        "prediction.",
        json_schema_extra=FLAG,
    )
    tolerance_mm: float = Field(
        1.0,
        gt=0,
        description="Accepted surface distance of surface Dice, in mm.",
        json_schema_extra=FLAG,
    )
    overwrite: bool = Field(False, description="Replace existing files.", json_schema_extra=FLAG)
    shard: str | None = Field(
        None,
        description="Do the i-th of n parts of the cases, as i/n, or as the job array says: slurm; "
        "the table is then named as scores-2of4.csv.",
        json_schema_extra=FLAG,
    )
    cluster: str | None = Field(
        None,
        description="Score in the workers of a Dask scheduler at this address, or of local:N "
        "worker processes.",
        json_schema_extra=FLAG,
    )
    border_is_surface: bool = Field(
        True,
        description="Count voxels at the image border as surface, as MONAI and MedPy do; "
        "without, a structure cut by the field of view has no surface there, as in CHAOS.",
    )
    labels: dict[int, str] | None = Field(
        None, description="Label values and names; default all values found, names if known."
    )

    @field_validator("out")
    @classmethod
    def _csv(cls, value: Path) -> Path:
        if value.suffix.lower() != ".csv":
            raise ValueError(f"the table is written as CSV, so {value.name} must end in .csv")
        return value
