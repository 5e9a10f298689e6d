"""Options of ``medseg3d score``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator

from medseg3d.config.options import ARGUMENT, FLAG, Options, Part, flag, one_by_one

TABLES = (".csv", ".xlsx", ".parquet")


class ScoreConfig(Options):
    """Options of ``medseg3d score``."""

    predictions: Path = Field(
        description="Predicted label map or folder of them.", json_schema_extra=ARGUMENT
    )
    references: Path = Field(
        description="Reference label map or folder of them.", json_schema_extra=ARGUMENT
    )
    also: tuple[Path, ...] = Field(
        (),
        description="Predictions of another model, to score beside the first; repeatable. The "
        "column model of the table has the names of the folders.",
        json_schema_extra=FLAG,
    )
    out: Path = Field(
        Path("scores.csv"),
        description="Table to write: .csv, .xlsx or .parquet; the summary goes beside it as .json.",
        json_schema_extra=flag("-o"),
    )
    layout: Literal["wide", "long"] = Field(
        "wide",
        description="A column for each metric, or a row.",
        json_schema_extra=FLAG,
    )
    metrics: tuple[Part, ...] | None = Field(
        None,
        description="Metrics by name (medseg3d list metrics), with commas between them or "
        "repeated; default those for overlap, surfaces and volumes. Those of whole label maps, "
        "such as mean_iou, go into the JSON file, one value per case. In YAML, with options: "
        "[dice, {name: f_beta, options: {beta: 2}}].",
        json_schema_extra=FLAG,
    )
    tolerance_mm: tuple[float, ...] = Field(
        (1.0, 2.0),
        min_length=1,
        description="Accepted surface distance of surface Dice, in mm; repeatable, a column each. "
        "Give those of all structures, and read each structure in its own column.",
        json_schema_extra=FLAG,
    )
    surface: Literal["voxel", "mesh"] = Field(
        "voxel",
        description="Whether surfaces are voxels that count the same, or a mesh weighted by area.",
        json_schema_extra=FLAG,
    )
    ignore_label: PositiveInt | None = Field(
        None,
        description="Value in references of voxels that nobody annotated, which do not count; "
        "default the label named ignore in dataset.json, else that of the model. A structure is "
        "cut where they begin, and the cut counts as surface.",
    )
    regions: Path | dict[str, tuple[PositiveInt, ...]] | None = Field(
        None,
        description="Unions of label values to score beside the labels: a run folder, model or "
        "plan.yaml that has regions, or {whole_tumor: [1, 2, 3], tumor_core: [2, 3]}; default "
        "those of the model that made the predictions, as far as its file is there; {} for none.",
        json_schema_extra=FLAG,
    )
    resample: bool = Field(
        False,
        description="Bring predictions that lie on another grid onto that of the reference, by "
        "the nearest voxel; without, they are refused.",
        json_schema_extra=FLAG,
    )
    patients: Path | None = Field(
        None,
        description="CSV with the columns case and patient, for intervals over patients; default "
        "by the case ids: sub-07_ses-1 and sub-07_ses-2 are one patient.",
        json_schema_extra=FLAG,
    )
    skip_unpaired: bool = Field(
        False,
        description="Leave out predictions without a reference and references without a "
        "prediction.",
        json_schema_extra=FLAG,
    )
    threads: int | None = Field(
        None,
        gt=0,
        description="Processors to use; default all that this process is allowed.",
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
        "without, a structure cut by the field of view has no surface there, as in CHAOS, "
        "unless one of the two fills the image.",
    )
    labels: dict[int, str] | None = Field(
        None, description="Label values and names; default all values found, names if known."
    )

    @field_validator("out")
    @classmethod
    def _table(cls, value: Path) -> Path:
        if value.suffix.lower() not in TABLES:
            raise ValueError(f"the name of the table must end in {', '.join(TABLES)}")
        return value

    @field_validator("metrics", mode="before")
    @classmethod
    def _one_by_one(cls, value: Any) -> Any:
        return one_by_one(value)

    @field_validator("tolerance_mm", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (int, float)) else value

    @field_validator("tolerance_mm")
    @classmethod
    def _lengths(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        for tolerance, times in Counter(value).items():
            if tolerance <= 0:
                raise ValueError("expected distances in mm above 0")
            if times > 1:
                raise ValueError(f"{tolerance:g} mm is given twice")
        return value
