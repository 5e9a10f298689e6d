"""Options of ``medseg3d check``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from medseg3d.config.options import ARGUMENT, FLAG, Options

OF_COPY = (
    *("resample_labels", "ignore_geometry", "resample_channels", "map", "onehot"),
    *("replace_nonfinite", "rounding_voxels"),
)
"""Options about the repaired copy."""


class CheckConfig(Options):
    """Options of ``medseg3d check``."""

    data: Path = Field(description="Folder with labeled cases.", json_schema_extra=ARGUMENT)
    as_json: bool = Field(
        False,
        description="Print everything that was found as JSON instead of tables.",
        json_schema_extra={"cli": True, "flag": "--json"},  # pydantic has a method json
    )
    html: Path | None = Field(
        None,
        description="Also write a page with pictures of the cases that are odd: an .html file, or "
        "a folder for check.html.",
        json_schema_extra=FLAG,
    )
    overwrite: bool = Field(False, description="Replace an existing page.", json_schema_extra=FLAG)
    ignore_label: int | None = Field(
        None,
        gt=0,
        description="Value of voxels that nobody annotated, as it will be given to fit; default "
        "from dataset.json.",
    )
    patients: Path | None = Field(
        None, description="CSV with the columns case and patient, as it will be given to fit."
    )
    fix: Path | None = Field(
        None,
        description="New folder for a repaired copy; fixes.csv in it lists every change.",
        json_schema_extra=FLAG,
    )
    dry_run: bool = Field(
        False,
        description="Only say what the repaired copy would change.",
        json_schema_extra=FLAG,
    )
    resample_labels: bool = Field(
        False,
        description="In the copy, resample label maps that lie elsewhere to their image.",
        json_schema_extra=FLAG,
    )
    ignore_geometry: bool = Field(
        False,
        description="In the copy, give label maps on another grid the affine of their image.",
        json_schema_extra=FLAG,
    )
    resample_channels: bool = Field(
        False,
        description="In the copy, resample channels on another grid to the first.",
        json_schema_extra=FLAG,
    )
    map: tuple[str, ...] | None = Field(
        None,
        description="In the copy, replace a label value, such as 255=1; repeatable.",
        json_schema_extra=FLAG,
    )
    onehot: bool = Field(
        False,
        description="In the copy, merge label maps that hold one mask per label.",
        json_schema_extra=FLAG,
    )
    replace_nonfinite: float | None = Field(
        None,
        description="In the copy, write this number where an image holds NaN or infinity.",
        json_schema_extra=FLAG,
    )
    rounding_voxels: float = Field(
        0.05,
        ge=0,
        lt=0.5,
        description="In the copy, label maps at most this many voxels off get the affine of their "
        "image.",
    )

    @property
    def label_map(self) -> dict[int, int]:
        """The replacements of label values."""
        pairs = (text.partition("=") for text in self.map or ())
        return {int(old): int(new) for old, _, new in pairs}

    @field_validator("map")
    @classmethod
    def _pairs(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for text in value or ():
            old, _, new = text.partition("=")
            if not (old.lstrip("-").isdecimal() and new.isdecimal()):
                raise ValueError(f"{text!r} is no pair of label values, such as 255=1")
        if value and len({text.partition("=")[0] for text in value}) < len(value):
            raise ValueError("a label value is mapped twice")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> CheckConfig:
        if self.resample_labels and self.ignore_geometry:
            raise ValueError("resample_labels and ignore_geometry exclude each other")
        return self

    @model_validator(mode="after")
    def _copy_is_wanted(self) -> CheckConfig:
        given = [name for name in OF_COPY if name in self.model_fields_set]
        changed = [n for n in given if getattr(self, n) != type(self).model_fields[n].default]
        if changed and self.fix is None and not self.dry_run:
            raise ValueError(
                f"{changed[0]} is about a repaired copy; give fix, or dry_run to see what it would "
                "change"
            )
        return self
