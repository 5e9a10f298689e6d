"""The part of a case that is asked for."""

from pathlib import Path

import numpy as np
import pytest

from medseg3d.api.predicting.region import Region, region_of
from medseg3d.config import PredictConfig, validated
from medseg3d.data.canonical import canonical
from medseg3d.errors import ConfigError, DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume, write_labels

SHAPE = (6, 5, 4)


def _config(**options: object) -> PredictConfig:
    return validated(PredictConfig, {"inputs": ["a"]} | options)


def _grid(affine: np.ndarray | None = None) -> Grid:
    return Grid(SHAPE, np.eye(4) if affine is None else affine)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("1:3,0:5,2:4", (slice(1, 3), slice(0, 5), slice(2, 4))),
        (":3, 2:,:", (slice(0, 3), slice(2, 5), slice(0, 4))),
    ],
)
def test_a_box_in_voxels(text: str, box: tuple[slice, ...]) -> None:
    region = region_of(_config(roi=text), "a", _grid())
    assert region is not None
    assert region.box == box


@pytest.mark.parametrize("text", ["3:3,:,:", "4:2,:,:", "0:7,:,:", ":,:,4:"])
def test_a_box_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="does not fit an image of 6 x 5 x 4 voxels"):
        region_of(_config(roi=text), "a", _grid())


@pytest.mark.parametrize("text", ["1:3", "a:b,:,:", "1:3,0:5,2:4,1:2", "-1:3,:,:"])
def test_a_box_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="roi"):
        _config(roi=text)


def test_two_regions_are_refused() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        _config(roi=":,:,:", roi_mask="m.nii.gz")


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (-1, -1, 1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_the_box_turns_with_the_image(
    flips: tuple[int, int, int], order: tuple[int, int, int]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.diag(flips)[:, list(order)].astype(float)
    grid = _grid(affine)
    region = Region((slice(1, 3), slice(2, 5), slice(0, 1)))
    marked = np.zeros((1, *SHAPE), np.float32)
    marked[0][region.box] = 1
    case = canonical(Volume.from_array(marked, grid))
    turn = case.reorientation
    box = region.canonical_box(turn)
    assert np.array_equal(case.image[0] == 1, _filled(case.image.shape[1:], box))
    mask = np.random.default_rng(0).random(SHAPE) < 0.5
    turned = Region(region.box, mask).canonical_mask(turn)
    seen = canonical(Volume.from_array(mask[None].astype(np.float32), grid)).image[0] == 1
    np.testing.assert_array_equal(turned, seen)
    assert region.canonical_mask(turn) is None
    wider = region.canonical_box(turn, (1, 9, 0))
    assert [(b.start, b.stop) for b in wider] == [
        (max(0, b.start - margin), min(length, b.stop + margin))
        for b, margin, length in zip(box, (1, 9, 0), case.image.shape[1:], strict=True)
    ]


def _filled(shape: tuple[int, ...], box: tuple[slice, ...]) -> np.ndarray:
    filled = np.zeros(shape, bool)
    filled[box] = True
    return filled


def test_outside_is_background() -> None:
    labels = np.full(SHAPE, 7, np.uint8)
    Region((slice(1, 3), slice(0, 5), slice(2, 4))).keep(labels)
    assert (labels[1:3, :, 2:4] == 7).all()
    assert np.count_nonzero(labels) == 2 * 5 * 2
    mask = np.zeros(SHAPE, bool)
    mask[2, 1, 3] = True
    Region((slice(2, 3), slice(1, 2), slice(3, 4)), mask).keep(labels)
    assert np.argwhere(labels).tolist() == [[2, 1, 3]]


def test_a_mask_from_a_file_or_a_folder(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3, 2, 3] = 4
    like = Volume.from_array(np.zeros((1, *SHAPE)), _grid())
    write_labels(tmp_path / "case.nii.gz", mask, like)
    for given in (tmp_path, tmp_path / "case.nii.gz"):
        region = region_of(_config(roi_mask=given), "case", _grid())
        assert region is not None
        assert region.box == (slice(1, 3), slice(2, 3), slice(3, 4))
        assert np.array_equal(region.mask, mask > 0)
    with pytest.raises(DataError, match="has 0 files named other"):
        region_of(_config(roi_mask=tmp_path), "other", _grid())
    with pytest.raises(DataError, match="not on the grid"):
        region_of(_config(roi_mask=tmp_path), "case", Grid((6, 5, 5), np.eye(4)))


def test_an_empty_mask_is_refused(tmp_path: Path) -> None:
    like = Volume.from_array(np.zeros((1, *SHAPE)), _grid())
    write_labels(tmp_path / "m.nii.gz", np.zeros(SHAPE, np.uint8), like)
    with pytest.raises(DataError, match="is empty"):
        region_of(_config(roi_mask=tmp_path / "m.nii.gz"), "a", _grid())


def test_everything_if_nothing_is_said() -> None:
    assert region_of(_config(), "a", _grid()) is None
