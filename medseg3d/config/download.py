"""Options of ``medseg3d download``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medseg3d.config.options import ARGUMENT, Options, flag


class DownloadConfig(Options):
    """Options of ``medseg3d download``."""

    task: str = Field(
        min_length=1,
        description="Task by name or number: brain_tumour, heart, liver, hippocampus, prostate, "
        "lung, pancreas, hepatic_vessel, spleen, colon; hippocampus, 4 and Task04_Hippocampus are "
        "the same.",
        json_schema_extra=ARGUMENT,
    )
    out: Path = Field(
        Path(),
        description="Folder in which the folder of the task appears.",
        json_schema_extra=flag("-o"),
    )
