"""What a bundle says about its weights."""

import json
import re
from math import prod
from typing import Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from medseg3d import __version__
from medseg3d.bundle.layout import DESCRIPTION, FORMAT
from medseg3d.bundle.refusal import UnfitError
from medseg3d.bundle.strict_json import parse_object
from medseg3d.config import Cleaning, Options, validated
from medseg3d.data.plan import Plan
from medseg3d.errors import ConfigError, ModelError

LARGEST_DESCRIPTION = 1 << 24
MOST_ENTRIES = 20_000
LARGEST_OPTION = 1 << 20
LARGEST_PATCH = 1 << 31
MOST_DICE_CHANGE = 0.001
"""An arithmetic that changes the mean Dice by less than this is as good as fp32."""


class Bundle(Options):
    """What a model file says about its weights."""

    format: Literal[2] = Field(2, description="Version of this description.")
    medseg3d: str = Field(__version__, description="Version that wrote the file.")
    network: str = Field(description="Registered network name.")
    options: dict[str, Any] = Field(description="Options of the network's constructor.")
    plan: Plan = Field(description="Plan of the run: grid, patch, labels and normalization.")
    channels: int = Field(gt=0, description="Image channels.")
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        "fp32", description="Arithmetic in which the validation scores were reached."
    )
    scores: dict[str, FiniteFloat] = Field(
        default_factory=dict, description="Validation Dice per label name, and their mean."
    )
    dice_changes: dict[Literal["bf16", "fp16"], FiniteFloat] = Field(
        default_factory=dict,
        description="Change of the mean Dice against fp32, on held-out cases, per arithmetic.",
    )
    cleaning: dict[str, Cleaning] = Field(
        default_factory=dict,
        description="What predict does to a label, by its name, because it improved the Dice of "
        "held-out cases.",
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="Data set, fold, steps, minutes and versions."
    )
    cases: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of the files of each case, without its id."
    )

    def accepts(self, precision: Literal["bf16", "fp16", "fp32"]) -> bool | None:
        """Whether that arithmetic was found as good as fp32; None if it was not compared."""
        if precision == "fp32":
            return True
        change = self.dice_changes.get(precision)
        return None if change is None else abs(change) < MOST_DICE_CHANGE

    @model_validator(mode="after")
    def _channels_of_the_plan(self) -> "Bundle":
        if self.channels != len(self.plan.channels):
            raise ValueError(
                f"channels is {self.channels}, but the plan has {len(self.plan.channels)} channels"
            )
        return self

    @model_validator(mode="after")
    def _cleaning_of_labels(self) -> "Bundle":
        names = set(self.plan.foreground.values())
        if unknown := sorted(self.cleaning.keys() - names):
            raise ValueError(f"cleaning names {unknown[0]!r}, which is no label of the plan")
        return self


def to_json(bundle: Bundle) -> bytes:
    """The description as it stands in the file.

    Raises:
        ModelError: If it holds what JSON cannot, or is too large.
    """
    try:
        values = bundle.model_dump(mode="json")
        data = json.dumps(values, indent=1, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ModelError(f"the model's description cannot be written as JSON: {error}") from None
    if len(data) > LARGEST_DESCRIPTION:
        raise ModelError(f"the model's description has {len(data)} bytes, too many for a bundle")
    return data


def from_json(data: bytes) -> Bundle:
    """The description in a file.

    Raises:
        UnfitError: If it is not one, or holds values that no run could have.
    """
    values = parse_object(data, where=DESCRIPTION)
    writer = values.get("medseg3d")
    if values.get("format") != FORMAT:
        raise UnfitError(
            f"{DESCRIPTION} has format {values.get('format')!r}, this medseg3d {__version__} reads "
            f"format {FORMAT}",
            "use the version that wrote it",
        )
    cases = values.pop("cases", {})
    _refuse_strange_cases(cases)
    if _num_entries(values) > MOST_ENTRIES:
        raise UnfitError(f"{DESCRIPTION} has more than {MOST_ENTRIES} entries beside its cases")
    _refuse_large_options(values.get("options"))
    try:
        bundle = validated(Bundle, values, source=DESCRIPTION)
    except ConfigError as error:
        if writer == __version__:
            raise UnfitError(str(error)) from None
        raise UnfitError(
            f"{error} (written by medseg3d {writer}, this is {__version__})",
            "use the version that wrote it",
        ) from None
    if not _is_kept(values, bundle.model_dump(mode="json")):
        raise UnfitError(f"{DESCRIPTION} holds values of other types than medseg3d writes")
    _refuse_impossible_plan(bundle.plan)
    return bundle.model_copy(update={"cases": cases})


def _refuse_strange_cases(cases: Any) -> None:
    if not isinstance(cases, dict):
        raise UnfitError(f"{DESCRIPTION} lists no cases by their id")
    for case_id, digest in cases.items():
        if not (isinstance(digest, str) and re.fullmatch("[0-9a-f]{32,128}", digest)):
            raise UnfitError(f"{DESCRIPTION} has no digest for case {case_id[:80]}")


def _is_kept(given: Any, read: Any) -> bool:
    """Whether every value was read as it stands, such as 1 for 1 and not for ``"1"``."""
    if isinstance(given, dict) and isinstance(read, dict):
        return all(name in read and _is_kept(given[name], read[name]) for name in given)
    if isinstance(given, list) and isinstance(read, list):
        return len(given) == len(read) and all(map(_is_kept, given, read))
    return bool(given == read) and isinstance(given, bool) == isinstance(read, bool)


def _num_entries(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_num_entries, inner))


def _refuse_large_options(value: Any) -> None:
    """A network's options are small numbers; a large one would only make building it endless."""
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            _refuse_large_options(inner)
    elif isinstance(value, (int, float)) and abs(value) > LARGEST_OPTION:
        raise UnfitError(f"{DESCRIPTION} gives the network an option of {value:g}")


def _refuse_impossible_plan(plan: Plan) -> None:
    """Values that the plan's own types allow but that no volume or memory could hold."""
    edges = plan.patch_size
    if prod(edges) > LARGEST_PATCH:
        raise UnfitError(f"its plan has patch_size {edges}, which cannot be")
    if 0 not in plan.labels:
        raise UnfitError(f"its plan has labels {sorted(plan.labels)[:5]}, but no background 0")
    if len(plan.labels) < 2:
        raise UnfitError("its plan has no label beside the background")
