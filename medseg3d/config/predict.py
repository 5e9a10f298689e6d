"""Options of ``medseg3d predict``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from medseg3d.config.cleaning import Cleaning
from medseg3d.config.options import ARGUMENT, FLAG, Options, flag, is_on


class PredictConfig(Options):
    """Options of ``medseg3d predict``."""

    exclusive: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"fast", "accurate"}),
        frozenset({"roi", "roi_mask"}),
    )
    """Options that replace each other: one given later puts the others out of force."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": {"overlap": 0.25, "mirror": False},
        "accurate": {"overlap": 0.5, "mirror": True},
    }
    """What a preset puts in place of defaults; an option that is given stays."""

    inputs: tuple[Path, ...] = Field(
        min_length=1,
        description="Images or folders of images; CASE_0000, CASE_0001 ... are channels.",
        json_schema_extra=ARGUMENT,
    )
    model: tuple[Path, ...] = Field(
        (),
        description="Run folder or bundle; repeatable, then their probabilities are averaged, as "
        "are those of all folds of a cross-validation; default the newest finished run under "
        "./runs.",
        json_schema_extra=flag("-m"),
    )
    out: Path | None = Field(
        None,
        description="File for one input, else folder; default <input>_seg.nii.gz beside it.",
        json_schema_extra=flag("-o"),
    )
    overlap: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Fraction of a window shared with its neighbor.",
        json_schema_extra=FLAG,
    )
    fast: bool = Field(
        False,
        description="Larger steps between windows (overlap 0.25), no mirrored copies, and the "
        "first model of a cross-validation instead of all.",
        json_schema_extra=FLAG,
    )
    accurate: bool = Field(
        False,
        description="Mirrored copies if the model was trained with --mirror, overlap 0.5.",
        json_schema_extra=FLAG,
    )
    crop: bool = Field(
        True,
        description="Look only at the box around the body; air far from it is background.",
        json_schema_extra=FLAG,
    )
    roi: str | None = Field(
        None,
        pattern=r"^\s*\d*:\d*\s*,\s*\d*:\d*\s*,\s*\d*:\d*\s*$",
        description="Predict only voxels x0:x1,y0:y1,z0:z1 in the order of the file, ends left "
        "out; the rest is background.",
        json_schema_extra=FLAG,
    )
    roi_mask: Path | None = Field(
        None,
        description="Predict only where this label map, or <case id> in this folder of them, is "
        "not 0.",
        json_schema_extra=FLAG,
    )
    backend: str = Field(
        "auto",
        description="What computes the network: auto takes the fastest that is installed and "
        "valid here (medseg3d list backends).",
        json_schema_extra=FLAG,
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto",
        description="Arithmetic of the network; auto takes bf16 where it is fast and leaves the "
        "labels as they are.",
        json_schema_extra=FLAG,
    )
    threads: int | None = Field(
        None,
        gt=0,
        description="Processors to use; default all that this process is allowed.",
        json_schema_extra=FLAG,
    )
    max_memory: str | None = Field(
        None,
        pattern=r"^\s*\d+(\.\d+)?\s*[KMGT]?(i?B)?\s*$",
        description="Memory to stay below, such as 4G or 900M; default what the machine, its "
        "container and other programs leave.",
        json_schema_extra=FLAG,
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto, cpu, cuda or cuda:N.",
        json_schema_extra=FLAG,
    )
    probabilities: bool = Field(
        False,
        description="Also write the probabilities of all labels as <name>_probabilities.nii.gz.",
        json_schema_extra=FLAG,
    )
    uncertainty: bool = Field(
        False,
        description="Also write the entropy of the probabilities, from 0 (sure) to 1, as "
        "<name>_uncertainty.nii.gz.",
        json_schema_extra=FLAG,
    )
    samples: int = Field(
        0,
        ge=0,
        le=1000,
        description="Also draw this many label maps from a network that knows several answers, as "
        "<name>_sample_01.nii.gz and so on, and write how much they differ, the entropy of their "
        "labels from 0 (all are equal) to 1, as <name>_samples_entropy.nii.gz.",
        json_schema_extra=FLAG,
    )
    seed: int = Field(0, ge=0, description="Seed of the random numbers behind samples.")
    shard: str | None = Field(
        None,
        description="Do the i-th of n parts of the cases, as i/n, or as the job array says: slurm.",
        json_schema_extra=FLAG,
    )
    cluster: str | None = Field(
        None,
        description="Predict in the workers of a Dask scheduler at this address, or of local:N "
        "worker processes.",
        json_schema_extra=FLAG,
    )
    overwrite: bool = Field(False, description="Replace existing files.", json_schema_extra=FLAG)
    skip_existing: bool = Field(
        False,
        description="Leave out cases whose outputs are there, to go on after an interruption.",
        json_schema_extra=FLAG,
    )
    format: str | None = Field(
        None,
        description="nii.gz, nii, nrrd, seg.nrrd, mha, mgz or dicom-seg; default as -o, or nii.gz.",
        json_schema_extra=FLAG,
    )
    replace_nonfinite: float | None = Field(
        None,
        description="Take this number where an image holds NaN or infinity, instead of refusing "
        "the case.",
        json_schema_extra=FLAG,
    )
    mirror: bool = Field(
        False,
        description="Average over copies mirrored along the axes of the training: up to 8 times "
        "slower, a little better.",
        json_schema_extra=FLAG,
    )
    postprocess: Literal["auto", "none"] = Field(
        "auto",
        description="auto cleans each label as fit found best on its held-out cases (largest part, "
        "parts under a volume, holes); none leaves labels as the network gives them.",
        json_schema_extra=FLAG,
    )
    cleaning: dict[str, Cleaning] = Field(
        default_factory=dict,
        description="What is done to a label, by its name, in place of what postprocess says: "
        "keep_largest, min_volume_mm3, fill_holes.",
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        chosen = [name for name in cls.presets if is_on(values.get(name))]
        if len(chosen) > 1:
            raise ValueError("fast and accurate exclude each other; give one of them")
        preset = cls.presets[chosen[0]] if chosen else {}
        return {**preset, **values}

    @model_validator(mode="after")
    def _one_way(self) -> PredictConfig:
        if self.overwrite and self.skip_existing:
            raise ValueError("overwrite and skip_existing exclude each other; give one of them")
        if self.roi is not None and self.roi_mask is not None:
            raise ValueError("roi and roi_mask exclude each other; give one of them")
        return self

    @field_validator("model", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        if value is None:
            return ()
        return (value,) if isinstance(value, str | Path) else value

    def __hash__(self) -> int:
        return hash(json.dumps(self.model_dump(mode="json")))

    @property
    def memory_limit(self) -> int | None:
        """Bytes of ``max_memory``."""
        if self.max_memory is None:
            return None
        text = self.max_memory.strip().removesuffix("B").removesuffix("i").strip()
        power = " KMGT".find(text[-1]) if text[-1] in "KMGT" else 0
        return int(float(text.rstrip("KMGT ")) * 1024**power)
