"""Maps of whole cases: the same as those a loss makes itself, cut, mirrored and shared in sums."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg3d.losses import LOSSES
from medseg3d.losses.building import build_loss
from medseg3d.losses.case_maps import CutMaps, make_maps, mapped_parts, mirrored_maps
from medseg3d.losses.deep_supervision import DeepSupervision

NAMES = ["boundary", "hausdorff_distance", "distance_penalized", "border_weighted"]
SUM = "dice+0.5*boundary+border_weighted+0.1*hausdorff_distance"
LABELS = 3
PAIR = (0, 2, 1)


def labels_of(seed: int, *shape: int) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, LABELS, [1 + length // 3 for length in shape])
    for axis, length in enumerate(shape):
        blocks = blocks.repeat(3, axis).take(range(length), axis)
    return blocks


def test_losses_by_distance_are_those_with_maps() -> None:
    by_distance = {name for name in LOSSES if LOSSES.facts(name).get("by") == "distance"}
    assert by_distance == set(NAMES)
    assert {name for name in LOSSES if mapped_parts(LOSSES.build(name))} == by_distance


def test_a_loss_that_stands_twice_has_its_maps_once() -> None:
    loss = DeepSupervision(build_loss("focal_tversky+boundary"), finest_apart=True)
    assert len(mapped_parts(loss)) == 1


@pytest.mark.parametrize("name", [*NAMES, SUM])
def test_given_maps_are_those_that_the_loss_makes(name: str) -> None:
    loss = build_loss(name, spacing=(1.0, 2.0, 0.5))
    labels = np.stack([labels_of(0, 9, 8, 7), labels_of(1, 9, 8, 7)])
    maps = torch.from_numpy(np.stack([make_maps(loss, case, LABELS) for case in labels]))
    assert maps.shape[1] == sum(part.num_maps(LABELS) for part in mapped_parts(loss))
    logits = torch.randn(2, LABELS, 9, 8, 7, generator=torch.Generator().manual_seed(0))
    target = torch.from_numpy(labels)[:, None]
    assert loss(logits, target, CutMaps.of(maps)) == loss(logits, target)
    assert loss(logits, target, CutMaps.of(maps + 1)) != loss(logits, target)


def test_a_patch_knows_of_borders_beyond_it() -> None:
    labels = np.array([1, 0, 0, 0, 0, 0])
    loss = LOSSES.build("boundary", spacing=[2.0])
    whole = make_maps(loss, labels, 2)
    assert whole[1].tolist() == [0, 2, 4, 6, 8, 10]
    certain = torch.tensor([[-50.0] * 3, [50.0] * 3])[None]  # all three voxels are label 1
    nothing = torch.zeros(1, 1, 3, dtype=torch.long)
    assert float(loss(certain, nothing)) == 0.0  # no border in sight
    assert float(loss(certain, nothing, CutMaps.of(torch.from_numpy(whole[None, :, 3:])))) == 8.0


def test_levels_of_deep_supervision_get_maps_of_their_size() -> None:
    loss = DeepSupervision(LOSSES.build("boundary"))
    target = torch.from_numpy(labels_of(2, 8, 8, 8))[None, None]
    maps = torch.from_numpy(make_maps(loss, target[0, 0].numpy(), LABELS))[None]
    levels = [torch.zeros(1, LABELS, 8, 8, 8), torch.zeros(1, LABELS, 4, 4, 4)]
    means = [maps[:, 1:].mean() / 3, maps[:, 1:, 1::2, 1::2, 1::2].mean() / 3]
    expected = (means[0] + 0.5 * means[1]) / 1.5
    assert float(loss(levels, target, CutMaps.of(maps))) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", ["boundary", "hausdorff_distance", "dice+0.1*boundary"])
def test_levels_without_maps_get_those_of_the_finest_labels(name: str) -> None:
    loss = build_loss(name)
    target = torch.from_numpy(labels_of(2, 8, 8, 8))[None, None]
    maps = torch.from_numpy(make_maps(loss, target[0, 0].numpy(), LABELS))[None]
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(1, LABELS, *[size] * 3, generator=generator) for size in (8, 4, 2)]
    found = DeepSupervision(loss)(levels, target)
    torch.testing.assert_close(found, DeepSupervision(loss)(levels, target, CutMaps.of(maps)))


def test_both_distances_of_a_coarser_level_are_in_the_same_unit() -> None:
    loss = LOSSES.build("hausdorff_distance", alpha=1.0)
    fine = np.zeros((1, 12), dtype=np.int64)
    fine[:, 4:8] = 1
    target = torch.from_numpy(fine)[None, None]
    maps = CutMaps.of(torch.from_numpy(make_maps(loss, fine, 2))[None])
    level = torch.full((1, 2, 1, 6), 40.0)
    level[:, 1, :, :] = -40.0
    level[:, 1, :, 2:5] = 80.0  # voxels 4 to 9 of the finest level, where 4 to 7 are right
    found = DeepSupervision(loss)([level], target, maps)
    # voxel 4 of the level is wrong: 2 from the reference, at 9 seen from its voxel 7, and 1 level
    # voxel, which is 2, within the prediction
    assert float(found) == pytest.approx((2 + 2) / 6, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), name=st.sampled_from([*NAMES, SUM]))
def test_maps_change_sides_with_their_labels(seed: int, name: str) -> None:
    loss = build_loss(name)
    labels = labels_of(seed, 7, 6, 5)
    mirrored = np.array(PAIR)[labels][::-1]
    order = mirrored_maps(loss, PAIR, LABELS)
    expected = make_maps(loss, mirrored, LABELS)
    np.testing.assert_allclose(make_maps(loss, labels, LABELS)[order][:, ::-1], expected)


def test_ignored_voxels_are_outside_of_every_structure() -> None:
    labels = np.array([1, 1, 3, 3, 0, 0])
    loss = LOSSES.build("boundary", ignore_index=3)
    assert make_maps(loss, labels, LABELS).tolist() == [[0] * 6, [-1, 0, 1, 2, 3, 4], [0] * 6]
    loss = LOSSES.build("boundary", ignore_index=1)
    assert not make_maps(loss, labels, 2).any()
