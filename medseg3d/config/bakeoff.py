"""Options of ``medseg3d bakeoff``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medseg3d.config.fit import ALL_FOLDS
from medseg3d.config.options import ARGUMENT, FLAG, Options, flag, one_by_one

ALL_NETWORKS = "all"
NOT_OF_FIT = frozenset({"data", "out", "resume", "dry_run", "start_from", "max_minutes"})
"""Options of fit that the bake-off gives itself, or that make no run to compare."""

THE_SAME = frozenset({"epochs", "seed", "fold", "folds", "patients", "sites", "splits"})
"""Options of fit without which runs could not be compared."""


class BakeoffConfig(Options):
    """Options of ``medseg3d bakeoff``."""

    data: Path = Field(
        description="Folder with the cases to learn from.", json_schema_extra=ARGUMENT
    )
    networks: tuple[str, ...] = Field(
        (ALL_NETWORKS,),
        min_length=1,
        description="Networks by name (medseg3d list networks), with commas between them or "
        "repeated; all: each that needs no other images. MONAI's too, as monai:SwinUNETR.",
        json_schema_extra=FLAG,
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="Minutes of training of each network; default 10, unless fit.epochs is given.",
        json_schema_extra=FLAG,
    )
    out: Path | None = Field(
        None,
        description="Folder of the bake-off, with a run folder for each network; default "
        "runs/<data>_bakeoff. The same command again goes on with what is in it.",
        json_schema_extra=flag("-o"),
    )
    fit: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of fit for all networks, such as {splits: splits.json, seed: 1}.",
    )
    own: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Options of fit for single networks by their name, such as {vnet: {network: "
        "{options: {width: 8}}}}.",
    )
    figure: Literal["png", "svg", "none"] = Field("png", description="Kind of the figure.")

    @field_validator("networks", mode="before")
    @classmethod
    def _one_by_one(cls, value: Any) -> Any:
        names = one_by_one(value)
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            return value
        return tuple(dict.fromkeys(filter(None, names)))

    @field_validator("fit")
    @classmethod
    def _of_all(cls, value: dict[str, Any]) -> dict[str, Any]:
        _refuse(value, NOT_OF_FIT | {"network"}, "the bake-off gives it, or it makes no such run")
        if value.get("fold") == ALL_FOLDS:
            raise ValueError("fold must be one fold; all of them make no single run to compare")
        return value

    @field_validator("own")
    @classmethod
    def _of_one(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for options in value.values():
            _refuse(options, NOT_OF_FIT | THE_SAME, "it is the same for all networks, or no option")
            network = options.get("network", {})
            if not (isinstance(network, dict) and network.keys() <= {"options"}):
                raise ValueError(
                    f"network has the name already, so it holds options only, got {network!r}; "
                    "expected such as {network: {options: {width: 8}}}"
                )
        return value

    @model_validator(mode="after")
    def _one_budget(self) -> BakeoffConfig:
        if self.max_minutes is not None and self.fit.get("epochs") is not None:
            raise ValueError(
                "max_minutes and fit.epochs exclude each other; give one of them "
                "(--set max_minutes=null, or fit.epochs=null, takes back what a file says)"
            )
        return self


def _refuse(options: dict[str, Any], names: frozenset[str], reason: str) -> None:
    if refused := sorted(names & options.keys()):
        raise ValueError(f"{', '.join(refused)} cannot be given here: {reason}; leave it out")
