"""Options of ``medseg3d export``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medseg3d.config.options import ARGUMENT, FLAG, Options, flag


class ExportConfig(Options):
    """Options of ``medseg3d export``."""

    run: Path = Field(
        description="Run folder, finished or not, or a bundle.", json_schema_extra=ARGUMENT
    )
    out: Path | None = Field(
        None,
        description="File or folder to write; default <run>.medseg3d in the current folder.",
        json_schema_extra=flag("-o"),
    )
    format: str | None = Field(
        None,
        description="onnx or openvino, for other programs, with a JSON file of what they must do "
        "before and after; default a bundle for predict.",
        json_schema_extra=FLAG,
    )
    overwrite: bool = Field(False, description="Replace an existing file.", json_schema_extra=FLAG)
