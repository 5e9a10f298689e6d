"""What counts beside the labels: regions, and voxels that nobody annotated."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from medseg3d.api.predicting.records import OF_ANY
from medseg3d.api.scoring.pairs import Pair, Scored
from medseg3d.bundle import SUFFIX, inspect_bundle, read_bundle
from medseg3d.config import ScoreConfig
from medseg3d.data.cases import Dataset
from medseg3d.data.dataset_json import Description
from medseg3d.data.plan import Plan
from medseg3d.errors import ConfigError, MedSeg3DError
from medseg3d.runs import HELD_OUT, PLAN, find_bundle
from medseg3d.scoring import Row

log = logging.getLogger("medseg3d")

Regions = Mapping[str, Sequence[int]]
"""Label values by name of the region."""


def regions_to_score(config: ScoreConfig, plan: Plan | None) -> Regions:
    """The regions that the options name, else those of the model behind the predictions.

    Args:
        config: The options.
        plan: That of the model, if it is known.

    Raises:
        ConfigError: If those named cannot be scored, or the file named has none.
        ModelError: If it is a model that cannot be read.
    """
    if config.regions is None:
        found = {} if plan is None else plan.regions
        if found:
            log.info("regions of the model are scored too: %s", ", ".join(found))
        return found
    if not isinstance(config.regions, Path):
        _refuse(config.regions)
        return config.regions
    regions = _regions_of(config.regions)
    if not regions:
        raise ConfigError(
            f"--regions {config.regions} has no regions; name a run or model that was trained on "
            "some, or the regions themselves: --set 'regions={whole: [1, 2]}'"
        )
    return regions


def with_regions(
    rows: Sequence[Row], done: Sequence[tuple[Pair, Scored]], regions_scored: Regions
) -> Iterator[Row]:
    """The rows of labels, and behind those of each case those of its regions.

    Args:
        rows: Of labels, in the order of ``done``.
        done: What came of each pair; its regions are numbered from 0.
        regions_scored: Which these are.

    Yields:
        Regions under numbers that no label has.
    """
    values = [value for region in regions_scored.values() for value in region]
    first = max([0, *values, *(row.label for row in rows)]) + 1
    regions = {pair.key: scored.regions for pair, scored in done}
    for key, of_case in groupby(rows, key=lambda row: (row.case, row.model)):
        yield from of_case
        yield from (replace(row, label=first + row.label) for row in regions[key])


def _refuse(regions: Regions) -> None:
    for name, values in regions.items():
        if not values or len(set(values)) < len(values) or name in ("", "mean"):
            raise ConfigError(
                f"regions: {name!r} has {list(values)}; give each region a name other than mean, "
                "and each of its labels once"
            )


def _regions_of(path: Path) -> Regions:
    """Those of a plan, of a run or of a model."""
    if path.suffix == SUFFIX:
        return read_bundle(path).plan.regions
    plan = path / PLAN if path.is_dir() else path
    if path.is_dir() and not plan.is_file():
        return read_bundle(find_bundle(path)).plan.regions
    return Plan.load(plan).regions


def ignored_label(known: Description | Dataset, plan: Plan | None) -> int | None:
    """Value in references of voxels that nobody annotated: as they say, else as the model does.

    Args:
        known: What is said about the references.
        plan: That of the model behind the predictions, if it is known.
    """
    if known.ignore_label is not None or plan is None or plan.ignore_is_free:
        return known.ignore_label
    return None if plan.ignore_label in (known.label_names or {}) else plan.ignore_label


def plan_near(predictions: Path) -> Plan | None:
    """That of the run or of the first model that made the predictions, if it can be told."""
    folder = predictions if predictions.is_dir() else predictions.parent
    with suppress(MedSeg3DError, OSError, ValueError, KeyError, AttributeError):
        if folder.absolute().name == HELD_OUT and (folder.parent / PLAN).is_file():
            return Plan.load(folder.parent / PLAN)
        for record in sorted(folder.iterdir()):
            if OF_ANY.fullmatch(record.name):
                models = json.loads(record.read_text(encoding="utf-8"))["models"]
                model, digest = next(iter(models.items()))
                contents = inspect_bundle(Path(model))
                if contents.sha256 == digest:
                    return contents.bundle.plan
    return None
