"""A label map stored in another order of axes is turned by its affine, never stacked as it is."""

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg3d.data.canonical import canonical, labels_on, load_case
from medseg3d.data.cases import Case
from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import LabelVolume, Volume

SHAPE = (3, 4, 5)
OBLIQUE = np.array(  # a turn of about 37 degrees, voxels of 2 x 1 x 3 mm
    [[1.6, -0.6, 0.0, 4.0], [1.2, 0.8, 0.0, -7.0], [0.0, 0.0, 3.0, 2.0], [0, 0, 0, 1]]
)
LABELS = np.arange(60, dtype=np.uint8).reshape(SHAPE)


def stored(order: tuple[int, ...], flips: tuple[int, ...]) -> LabelVolume:
    """LABELS with the axes in another order and direction, in the same places."""
    labels = LABELS.transpose(order)[tuple(slice(None, None, step) for step in flips)]
    columns = np.zeros((4, 4))
    columns[3, 3] = 1
    for new, (old, step) in enumerate(zip(order, flips, strict=True)):
        columns[old, new] = step
        columns[old, 3] = 0 if step > 0 else SHAPE[old] - 1
    return LabelVolume(labels, Grid(labels.shape, OBLIQUE @ columns), Path("seg.nii"))


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product((1, -1), repeat=3)))
def test_every_order_and_direction_of_axes_is_turned(
    order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    turned = labels_on(stored(order, flips), Grid(SHAPE, OBLIQUE))
    np.testing.assert_array_equal(turned, LABELS)


def test_every_voxel_keeps_its_place_in_the_patient() -> None:
    label_map, grid = stored((2, 0, 1), (-1, 1, -1)), Grid(SHAPE, OBLIQUE)
    turned = labels_on(label_map, grid)
    index = np.argwhere(label_map.labels == 37)[0]
    place = label_map.grid.affine @ [*index, 1]
    there = np.rint(np.linalg.solve(grid.affine, place))[:3].astype(int)
    assert turned[tuple(there)] == 37


@pytest.mark.parametrize(
    "affine",
    [
        OBLIQUE + np.eye(4, k=3) * 2,
        OBLIQUE @ np.diag([1, 1, 1.01, 1]),
        OBLIQUE @ np.array([[1, 0.4, 0, 0], [-0.4, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        OBLIQUE @ np.diag([-1, 1, 1, 1]),  # mirrored about its first voxel: elsewhere
    ],
)
def test_another_place_is_refused(affine: np.ndarray) -> None:
    elsewhere = LabelVolume(LABELS, Grid(SHAPE, affine), Path("seg.nii"))
    with pytest.raises(DataError, match=r"seg\.nii is not on the grid of image a\.nii: .*resample"):
        labels_on(elsewhere, Grid(SHAPE, OBLIQUE), of="image a.nii")


def test_a_transposed_shape_with_the_image_affine_is_refused() -> None:
    transposed = LabelVolume(LABELS.T, Grid(LABELS.T.shape, OBLIQUE), Path("seg.nii"))
    with pytest.raises(DataError, match=r"fit with the axes in the order \(2, 1, 0\)"):
        labels_on(transposed, Grid(SHAPE, OBLIQUE))


def test_a_mirrored_label_file_is_loaded_onto_its_image(tmp_path: Path) -> None:
    label_map = stored((0, 1, 2), (-1, 1, 1))
    intensities = LABELS.astype(np.int16) * 10
    nib.Nifti1Image(intensities, OBLIQUE).to_filename(tmp_path / "a.nii.gz")
    nib.Nifti1Image(label_map.labels, label_map.grid.affine).to_filename(tmp_path / "b.nii.gz")
    case = load_case(Case("a", (tmp_path / "a.nii.gz",), tmp_path / "b.nii.gz", "a"))
    np.testing.assert_array_equal(case.labels, case.image[0] / 10)


def test_stored_integers_are_neither_copied_nor_widened() -> None:
    array = np.arange(-30, 30, dtype=np.int16).reshape(1, *SHAPE)
    case = canonical(Volume.from_array(array, Grid(SHAPE, np.diag([-1.0, -1.0, 2.0, 1.0]))))
    assert case.image.dtype == np.int16
    assert np.shares_memory(case.image, array)
    np.testing.assert_array_equal(case.image, array[:, ::-1, ::-1])
    wide = Volume.from_array(array.astype(np.float64), Grid(SHAPE, np.eye(4)))
    assert canonical(wide).image.dtype == np.float32
