"""Patches of two domains: which lie beside each other, and cases that have no labels."""

from pathlib import Path

import numpy as np
import pytest
import torch

from medseg3d.data.cache import CachedCase
from medseg3d.data.domains import TwoDomains
from medseg3d.data.patches import PatchDataset, read_box
from medseg3d.errors import DataError

SHAPE = (12, 10, 8)


def case(folder: Path, name: str, level: float, *, labeled: bool) -> CachedCase:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[3:6, 3:6, 3:6] = 1
    image = np.full((1, *SHAPE), level, dtype=np.float32)
    image[0, 0] += 0.5
    return CachedCase.write(
        folder / name, case_id=name, image=image, labels=labels if labeled else None, num_labels=2
    )


def test_each_sample_has_one_of_the_target_beside_it(tmp_path: Path) -> None:
    source = PatchDataset([case(tmp_path, "s", 1.0, labeled=True)], (6, 6, 6), seed=0)
    unlabeled = [case(tmp_path, name, 2.0, labeled=False) for name in "tu"]
    target = PatchDataset(unlabeled, (6, 6, 6), seed=1, foreground=0, labeled=False)
    both = TwoDomains(source, target)
    assert len(both) == len(source)
    for number in (0, 3, 1000):
        sample = both[number]
        assert set(sample) == {"image", "labels", "case", "target"}
        assert both.case_id(number) == sample["case"] == "s"
        assert torch.equal(sample["image"], source[number]["image"])
        assert torch.equal(sample["labels"], source[number]["labels"])
        assert torch.equal(sample["target"], target[number]["image"])
        assert sample["image"].max() <= 1.5 < 2 <= sample["target"].min()


def test_where_no_labels_were_stored_all_is_background(tmp_path: Path) -> None:
    unlabeled = case(tmp_path, "t", 2.0, labeled=False)
    image, labels = read_box(unlabeled, (-2, 0, 0), (6, 4, 4))
    assert labels.shape == (6, 4, 4)
    assert not labels.any()
    assert not image[0, :2].any()
    assert (image[0, 2:] >= 2).all()
    patches = PatchDataset([unlabeled], (6, 6, 6), seed=0, foreground=0.5, labeled=False)
    assert not any(patches[number]["labels"].any() for number in range(4))


def test_who_learns_from_labels_refuses_cases_without(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="case t: no labels were stored"):
        PatchDataset([case(tmp_path, "t", 2.0, labeled=False)], (6, 6, 6), seed=0)
