"""What the page gets of a case: its orientation, its files, its errors and its worst slices."""

import base64
import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg3d.errors import DataError
from medseg3d.review import volumes
from medseg3d.review.slices import ANY_LABEL, Slice, worst_slices
from medseg3d.review.volumes import CaseFiles, error_map, for_page, load, packed, script_of

SHAPE = (7, 6, 5)
LPS = np.diag([-0.5, -2.0, 3.0, 1.0])
LPS[:3, 3] = (40.0, 10.0, -7.0)


def save(path: Path, array: np.ndarray, affine: np.ndarray = LPS) -> Path:
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


def unpacked(text: str) -> Any:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


@pytest.fixture
def files(tmp_path: Path) -> CaseFiles:
    """Stored as LPS; label 1 is predicted in a place where the reference has 3 voxels more."""
    image = np.random.default_rng(0).integers(-1000, 2000, SHAPE).astype(np.int16)
    image[0, 0, 0] = -1000
    reference = np.zeros(SHAPE, np.uint8)
    reference[1:5, 2:4, 1:4] = 1
    prediction = reference.copy()
    prediction[1, 2, 1:4] = 0
    return CaseFiles(
        id="a",
        images=(save(tmp_path / "image.nii.gz", image),),
        prediction=save(tmp_path / "prediction.nii.gz", prediction),
        reference=save(tmp_path / "reference.nii.gz", reference),
    )


def script(files: CaseFiles) -> dict[str, Any]:
    case = load(files)
    worst = worst_slices(case.prediction, case.reference, case.grid.spacing)
    return script_of(files.id, for_page(case), worst)


def test_a_case_is_turned_to_ras_and_every_voxel_keeps_its_place(files: CaseFiles) -> None:
    case = load(files)
    stored = nib.load(files.images[0])
    assert case.grid.orientation == "RAS"
    for index in np.ndindex(SHAPE):
        here = np.linalg.solve(case.grid.affine, stored.affine @ [*index, 1.0])[:3]
        at = tuple(np.rint(here).astype(int))
        assert case.image[at] == stored.dataobj[index]


def test_a_label_map_stored_the_other_way_round_is_shown_where_it_lies(files: CaseFiles) -> None:
    stored = nib.load(files.prediction)
    turned = nib.as_closest_canonical(stored)
    assert nib.aff2axcodes(turned.affine) != nib.aff2axcodes(stored.affine)
    before = load(files).prediction.copy()
    nib.save(turned, files.prediction)
    assert np.array_equal(load(files).prediction, before)


def test_the_page_gets_readable_files_on_one_ras_grid(files: CaseFiles) -> None:
    told = script(files)
    case = load(files)
    images = {name: unpacked(told[name]) for name in ("image", "prediction", "reference", "errors")}
    for found in images.values():
        assert np.allclose(found.affine, np.diag([0.5, 2.0, 3.0, 1.0]))
        assert found.shape == tuple(told["shape"]) == SHAPE
    assert np.array_equal(np.asarray(images["prediction"].dataobj), case.prediction)
    assert np.array_equal(np.asarray(images["reference"].dataobj), case.reference)
    assert np.array_equal(images["image"].get_fdata(), case.image)
    assert told["modality"] == "CT"
    assert (told["reduced"], told["original_shape"]) == (False, list(SHAPE))
    assert np.allclose(told["spacing_mm"], [0.5, 2.0, 3.0])


def test_without_a_reference_there_are_no_errors(files: CaseFiles) -> None:
    told = script(CaseFiles(files.id, files.images, files.prediction))
    assert told["reference"] is told["errors"] is None
    assert all(place["error_voxels"] == 0 for place in told["worst"].values())


def test_errors_by_hand() -> None:
    prediction = np.array([0, 1, 1, 0, 2, 2, 300], np.uint16)
    reference = np.array([0, 1, 0, 1, 2, 1, 44], np.uint16)  # 300 is 44 in eight bits
    assert error_map(prediction, reference).tolist() == [0, 1, 2, 3, 1, 4, 4]


def test_the_worst_slice_is_the_one_with_the_largest_wrong_area_in_mm2() -> None:
    prediction, reference = np.zeros((2, 9, 9, 9), np.uint8)
    reference[4, 2:5, 3] = 1  # 3 voxels in a sagittal plane and in an axial one
    spacing = (1.0, 1.0, 5.0)
    # across I: 3 x 1 x 5 mm2, across J: 1 x 5, across K: 3 x 1 x 1
    assert worst_slices(prediction, reference, spacing)[1] == Slice(0, (4, 3, 3), 3)
    assert worst_slices(prediction, reference, (1.0, 1.0, 0.2))[1] == Slice(2, (4, 3, 3), 3)


def test_each_label_has_its_own_worst_slice() -> None:
    prediction, reference = np.zeros((2, 12, 12, 12), np.uint16)
    prediction[1:4, 1:4, 2] = 1
    reference[6:11, 6:11, 9] = 7000
    found = worst_slices(prediction, reference, (1.0, 1.0, 1.0))
    assert set(found) == {ANY_LABEL, 1, 7000}
    assert found[1].voxel == (2, 2, 2)
    assert found[ANY_LABEL] == found[7000] == Slice(2, (8, 8, 9), 25)


label_maps = arrays(np.uint8, (5, 4, 3), elements=st.sampled_from([0, 0, 1, 2]))


@given(prediction=label_maps, reference=label_maps, order=st.permutations(range(3)))
def test_no_slice_is_worse_than_the_worst(
    prediction: np.ndarray, reference: np.ndarray, order: list[int]
) -> None:
    spacing = (0.7, 1.1, 2.5)
    back = np.argsort(order)  # the same numbers, in another order in memory
    ours, theirs = (
        np.ascontiguousarray(array.transpose(order)).transpose(back)
        for array in (prediction, reference)
    )
    found = worst_slices(ours, theirs, spacing)
    assert set(found) == {0, *np.unique(prediction), *np.unique(reference)}
    for label, worst in found.items():
        wrong = prediction != reference
        if label:
            wrong &= (prediction == label) | (reference == label)
        areas = {
            (axis, index): wrong.take(index, axis=axis).sum() * np.prod(spacing) / spacing[axis]
            for axis in range(3)
            for index in range(wrong.shape[axis])
        }
        here = worst.axis, worst.voxel[worst.axis]
        assert areas[here] == pytest.approx(max(areas.values()))
        assert wrong.take(here[1], axis=here[0]).sum() == worst.error_voxels
        if wrong.any():
            assert wrong[worst.voxel]
        elif label:
            assert reference[worst.voxel] == label


def test_a_right_prediction_shows_the_label_where_it_is_largest() -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:7, 2:7, 3] = labels[4, 4, 4] = 6
    found = worst_slices(labels, labels.copy(), (1.0, 1.0, 1.0))
    assert found == {0: Slice(2, (4, 4, 3), 0), 6: Slice(2, (4, 4, 3), 0)}


def test_nothing_at_all_shows_the_middle() -> None:
    nothing = np.zeros((8, 6, 4), np.uint8)
    assert worst_slices(nothing, nothing, (1.0, 1.0, 1.0)) == {0: Slice(2, (4, 3, 2), 0)}


def test_the_place_of_the_worst_slice_fits_the_reduced_image(
    files: CaseFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "block_for", lambda *_: (3, 2, 1))
    told = script(files)
    assert told["reduced"]
    assert (told["shape"], told["original_shape"]) == ([3, 3, 5], list(SHAPE))
    assert np.allclose(told["spacing_mm"], [1.5, 4.0, 3.0])
    place = told["worst"]["1"]
    assert place["error_voxels"] == 3
    # the middle of the voxels that lack is (1, 2, 2) in the file, (5, 3, 2) in RAS order
    assert place["voxel"] == [1, 1, 2]
    shown = [*place["voxel"], 1]
    assert (np.array(told["voxel_to_file"]) @ shown).tolist() == [3, 3, 2]  # of 3 x 2, the first
    middle = LPS @ [2, 2.5, 2, 1]
    assert np.allclose(np.array(told["voxel_to_mm"]) @ shown, middle[:3])


def test_a_scale_is_kept_for_the_reader() -> None:
    array = np.array([0, 7, -3, 4095], np.int16).reshape(2, 2, 1)
    found = unpacked(packed(array, (0.5, 2.0, 3.0), slope=0.25))
    assert np.array_equal(found.get_fdata(), array * 0.25)
    assert found.get_data_dtype() == np.int16


def test_labels_elsewhere_are_refused(files: CaseFiles) -> None:
    stored = nib.load(files.prediction)
    save(files.prediction, np.asarray(stored.dataobj), LPS @ np.diag([2.0, 1.0, 1.0, 1.0]))
    with pytest.raises(DataError, match=r"prediction.nii.gz is not on the grid of image .*image"):
        load(files)


def test_a_channel_that_is_not_there_is_refused(files: CaseFiles, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 1 channels, so there is no channel 1"):
        load(files, channel=1)
    other = save(tmp_path / "other.nii.gz", np.full(SHAPE, 5, np.int16))
    both = CaseFiles(files.id, (files.images[0], other), files.prediction)
    assert np.all(load(both, channel=1).image == 5)
    with pytest.raises(DataError, match="has 2 channels, so there is no channel 2"):
        load(both, channel=2)


def test_voxels_without_a_number_do_not_hide_a_case(files: CaseFiles) -> None:
    image = np.ones(SHAPE, np.float32)
    image[0, 0, 0] = np.nan
    save(files.images[0], image)
    assert load(files).image.min() == 0


def test_uncertainty_must_lie_on_the_image(files: CaseFiles, tmp_path: Path) -> None:
    entropy = np.linspace(0, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    path = save(tmp_path / "u.nii.gz", entropy)
    case = load(CaseFiles(files.id, files.images, files.prediction, uncertainty=path))
    assert case.uncertainty is not None
    assert np.array_equal(case.uncertainty, entropy[::-1, ::-1])
    save(path, entropy[1:])
    with pytest.raises(DataError, match=r"u.nii.gz is not on the grid of its image: shapes"):
        load(CaseFiles(files.id, files.images, files.prediction, uncertainty=path))


def test_a_clinical_ct_is_halved_and_keeps_its_liver(shared_data: Path) -> None:
    folder = shared_data / "abdomen_ct"
    case = load(
        CaseFiles(
            "chaos3",
            (folder / "chaos3_ct.nii.gz",),
            folder / "chaos3_sample_prediction.nii.gz",
            folder / "chaos3_liver.nii.gz",
        )
    )
    page = for_page(case)
    assert page.case.grid.shape == (256, 256, 78)
    assert (page.modality, page.window) == ("CT", (-160.0, 240.0))
    assert page.case.reference is not None
    assert case.reference is not None
    small, whole = (
        2 * np.count_nonzero(p & r) / (np.count_nonzero(p) + np.count_nonzero(r))
        for p, r in (
            (page.case.prediction == 1, page.case.reference == 1),
            (case.prediction == 1, case.reference == 1),
        )
    )
    assert whole == pytest.approx(0.97843, abs=1e-5)
    assert small == pytest.approx(whole, abs=0.005)
    # the liver is on the patient's right, which is where I is large
    assert np.argwhere(page.case.prediction)[:, 0].mean() > 128
