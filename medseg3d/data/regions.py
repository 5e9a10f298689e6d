"""Regions: named unions of labels, which may overlap, such as the whole of a tumor.

A network tells labels apart; a region is found where any of its labels is. So what is predicted
stays one label map, and regions that lie in each other do so in every prediction.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from medseg3d.types import LabelMap

Regions = Mapping[str, Sequence[int]]
"""Label values by name of the region."""


def refuse_regions(regions: Regions, labels: Mapping[int, str]) -> None:
    """Refuse regions that labels do not fill, or that do not tell the labels apart.

    Args:
        regions: Label values by name of the region.
        labels: Names by label value, background included.

    Raises:
        ValueError: Saying what is wrong.

    Examples:
        >>> names = {0: "background", 1: "edema", 2: "core"}
        >>> refuse_regions({"whole": [1, 2], "core": [2]}, names)
        >>> refuse_regions({"whole": [1, 2]}, names)
        Traceback (most recent call last):
        ...
        ValueError: the labels 1, 2 are in the same regions, so nothing tells them apart; add a ...
    """
    homes: dict[int, set[str]] = defaultdict(set)
    for name, values in regions.items():
        if strange := [value for value in values if value == 0 or value not in labels]:
            raise ValueError(
                f"region {name} has {strange[0]}, expected labels among "
                f"{', '.join(str(value) for value in sorted(labels) if value != 0)}"
            )
        if not values or len(set(values)) < len(values):
            raise ValueError(f"region {name} has {list(values)}; give each of its labels once")
        if name == "mean":
            raise ValueError("a region cannot be named mean, as the mean of all is")
        for value in values:
            homes[value].add(name)
    alike: dict[frozenset[str], list[int]] = defaultdict(list)
    for value in sorted(labels) if regions else ():
        alike[frozenset(homes[value])].append(value)
    for names, values in alike.items():
        if len(values) > 1:
            where = "in the same regions" if names else "in no region"
            raise ValueError(
                f"the labels {', '.join(map(str, values))} are {where}, so nothing tells them "
                "apart; add a region for each, or give them one value"
            )


def numbered(regions: Regions, labels: Mapping[int, str]) -> dict[int, str]:
    """Names of the regions by numbers that no label has, for tables.

    Examples:
        >>> numbered({"whole": [1, 2], "core": [2]}, {0: "background", 1: "edema", 2: "core"})
        {3: 'whole', 4: 'core'}
    """
    return dict(enumerate(regions, start=max(labels) + 1))


def region_mask(labels: LabelMap, values: Sequence[int]) -> LabelMap:
    """1 where a label map has any of the values, else 0."""
    return np.isin(labels, values).astype(np.uint8)
