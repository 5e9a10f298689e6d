"""Regions: unions of labels in a plan, and the masks that they are."""

from pathlib import Path

import numpy as np
import pytest

from medseg3d.data.plan import Normalization, Plan
from medseg3d.data.regions import numbered, refuse_regions, region_mask
from medseg3d.errors import ConfigError

LABELS = {0: "background", 1: "edema", 2: "core", 5: "enhancing"}
TUMOR = {"whole": (1, 2, 5), "inner": (2, 5), "bright": (5,)}
PLAN = Plan(
    num_cases=2,
    labels=LABELS,
    channels=(Normalization(name="MR", scheme="zscore", lower=0, upper=9, mean=5, sd=1),),
    spacing=(1.0, 1.0, 1.0),
    coarse_axis=None,
    median_shape=(8, 8, 8),
    patch_size=(4, 4, 4),
    batch_size=1,
    strides=((2, 2, 2),),
    kernels=((3, 3, 3), (3, 3, 3)),
    width=4,
    max_width=8,
)


@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        ({"whole": (1, 2, 5)}, "labels 1, 2, 5 are in the same regions, so nothing tells them"),
        ({"whole": (1, 2), "inner": (2,)}, "labels 0, 5 are in no region, so nothing tells"),
        (TUMOR | {"odd": (3,)}, "region odd has 3, expected labels among 1, 2, 5"),
        (TUMOR | {"odd": (0, 1)}, "region odd has 0"),
        (TUMOR | {"odd": ()}, r"region odd has \[\]; give each of its labels once"),
        (TUMOR | {"odd": (1, 1)}, r"region odd has \[1, 1\]"),
        (TUMOR | {"mean": (1,)}, "cannot be named mean"),
    ],
)
def test_regions_that_make_no_sense_are_refused(
    regions: dict[str, tuple[int, ...]], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        refuse_regions(regions, LABELS)
    with pytest.raises(ConfigError, match=reason):
        PLAN.with_regions(regions)


def test_a_plan_carries_them(tmp_path: Path) -> None:
    assert PLAN.with_regions({}) is PLAN
    plan = PLAN.with_regions(TUMOR)
    assert plan.region_indices == ((1, 2, 3), (2, 3), (3,))
    assert (PLAN.scored, plan.scored) == (PLAN.foreground, plan.region_numbers)
    plan.save(tmp_path / "plan.yaml")
    again = Plan.load(tmp_path / "plan.yaml")
    assert again == plan
    assert list(again.regions) == ["whole", "inner", "bright"]
    assert PLAN.with_regions({"left": (1, 2), "right": (2, 5)}).region_indices == ((1, 2), (2, 3))


def test_numbers_of_regions_are_no_labels() -> None:
    assert numbered(TUMOR, LABELS) == {6: "whole", 7: "inner", 8: "bright"}
    assert numbered({}, LABELS) == {}


def test_a_mask_is_where_any_of_the_values_is() -> None:
    labels = np.array([0, 1, 2, 5, 5, 1], np.int16)
    assert region_mask(labels, (2, 5)).tolist() == [0, 0, 1, 1, 1, 0]
    assert region_mask(labels, (2, 5)).dtype == np.uint8
