"""The copy holds what was chosen to be repaired; the original keeps every byte."""

import csv
import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg3d.data import repair as module
from medseg3d.data.layouts import find_cases
from medseg3d.data.regrid import image_onto, labels_onto
from medseg3d.data.remedies import Change, Remedies
from medseg3d.data.repair import repair
from medseg3d.errors import ConfigError, RunError
from medseg3d.geometry.grid import Grid
from medseg3d.geometry.resampling import resample_labels
from medseg3d.io import read_image, read_labels, write_labels

SHAPE = (8, 7, 6)
AFFINE = np.diag([-1.0, 2.0, 3.0, 1.0])
SHIFTED = AFFINE + np.eye(4, k=3) * 4


def blocks() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:5, 2:5, 1:4], labels[5:7, 4:6, 4] = 1, 2
    return labels


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, affine).to_filename(path)


def make(
    root: Path,
    labels: np.ndarray | None = None,
    label_affine: np.ndarray = AFFINE,
    image: np.ndarray | None = None,
) -> Path:
    """A set of a case ``a`` as given and a sound case ``b``."""
    sound = np.arange(blocks().size, dtype=np.int16).reshape(SHAPE)
    save(root / "images" / "a.nii.gz", sound if image is None else image)
    save(root / "labels" / "a.nii.gz", blocks() if labels is None else labels, label_affine)
    save(root / "images" / "b.nii.gz", sound + 1)
    save(root / "labels" / "b.nii.gz", blocks())
    (root / "notes.txt").write_text("read me")
    return root


def bytes_of(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def repaired(tmp_path: Path, **remedies: object) -> tuple[Change, ...]:
    """Repair ``tmp_path/data`` into ``tmp_path/copy``, sure of what must never change."""
    root, out = tmp_path / "data", tmp_path / "copy"
    before = bytes_of(root)
    options = Remedies(**remedies)  # type: ignore[arg-type]
    planned = repair(find_cases(root), out, options, dry_run=True)
    assert not out.exists()
    changes = repair(find_cases(root), out, options)
    assert planned == changes
    assert bytes_of(root) == before
    after = bytes_of(out)
    touched = {change.file for change in changes}
    assert after.keys() == before.keys() | {"fixes.csv"}
    assert {name for name in before if after[name] != before[name]} == touched
    assert b"\r" not in (out / "fixes.csv").read_bytes()
    with (out / "fixes.csv").open(encoding="utf-8") as file:
        rows = [Change(**row) for row in csv.DictReader(file)]
    assert tuple(rows) == changes
    return changes


def label_map(tmp_path: Path) -> tuple[np.ndarray, np.ndarray, np.dtype]:
    stored = nib.load(tmp_path / "copy" / "labels" / "a.nii.gz")
    return np.asarray(stored.dataobj), stored.affine, stored.get_data_dtype()


def test_a_sound_set_is_copied_byte_for_byte(tmp_path: Path) -> None:
    make(tmp_path / "data")
    assert repaired(tmp_path, resample_labels=True, onehot=True, replace_nonfinite=0.0) == ()


def test_labels_near_integers_are_rounded_and_stored_as_integers(tmp_path: Path) -> None:
    make(tmp_path / "data", blocks() * np.float32(0.9999))
    (change,) = repaired(tmp_path)
    assert (change.case, change.file, change.change) == (
        "a",
        "labels/a.nii.gz",
        "round to integers",
    )
    assert (change.before, change.after) == ("values such as 1.9998", "0, 1, 2")
    labels, affine, dtype = label_map(tmp_path)
    np.testing.assert_array_equal(labels, blocks())
    np.testing.assert_array_equal(affine, AFFINE)
    assert dtype == np.uint8


def test_labels_between_integers_are_left_as_they_are(tmp_path: Path) -> None:
    make(tmp_path / "data", blocks() * np.float32(0.5))
    assert repaired(tmp_path, resample_labels=True) == ()


def test_a_mirrored_label_map_is_turned_to_its_image(tmp_path: Path) -> None:
    turned = AFFINE @ np.diag([1.0, -1, 1, 1])
    turned[:3, 3] = AFFINE[:3, 1] * (SHAPE[1] - 1)
    make(tmp_path / "data", blocks()[:, ::-1], turned)
    (change,) = repaired(tmp_path)
    assert (change.before, change.after) == ("LPS", "LAS")
    labels, affine, _ = label_map(tmp_path)
    np.testing.assert_array_equal(labels, blocks())
    np.testing.assert_array_equal(affine, AFFINE)


def test_a_rounded_affine_becomes_that_of_the_image(tmp_path: Path) -> None:
    make(tmp_path / "data", label_affine=AFFINE + np.eye(4, k=3) * 0.02)
    (change,) = repaired(tmp_path)
    assert change.change == "copy the affine of the image"
    assert "0.02" in change.before
    np.testing.assert_array_equal(label_map(tmp_path)[1], AFFINE)


def test_a_label_map_elsewhere_is_only_moved_when_that_is_chosen(tmp_path: Path) -> None:
    make(tmp_path / "data", label_affine=SHIFTED)
    assert repaired(tmp_path) == ()


def test_geometry_can_be_ignored(tmp_path: Path) -> None:
    make(tmp_path / "data", label_affine=SHIFTED)
    (change,) = repaired(tmp_path, ignore_geometry=True)
    assert "up to 4 mm" in change.before
    labels, affine, _ = label_map(tmp_path)
    np.testing.assert_array_equal(labels, blocks())
    np.testing.assert_array_equal(affine, AFFINE)


def test_a_label_map_elsewhere_can_be_resampled(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += AFFINE[0, 0]
    make(tmp_path / "data", label_affine=moved)
    (change,) = repaired(tmp_path, resample_labels=True)
    assert change.change == "resample to the image"
    assert change.before.endswith("; 31 voxels, 0.186 mL")  # 27 and 4 voxels of 6 mm3
    assert change.after == "same grid; 31 voxels, 0.186 mL"
    labels, affine, _ = label_map(tmp_path)
    np.testing.assert_array_equal(labels, np.roll(blocks(), 1, axis=0))
    np.testing.assert_array_equal(affine, AFFINE)


def test_a_transposed_label_map_is_not_resampled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "data", blocks().transpose(2, 1, 0))
    assert repaired(tmp_path, resample_labels=True) == ()
    assert "case a: not repaired" in caplog.text
    assert "export it again" in caplog.text


def test_axes_that_the_header_tells_in_another_order_are_resampled(tmp_path: Path) -> None:
    """Stored from foot to head first, and half a voxel off: the header accounts for the shape."""
    moved = AFFINE[:, [2, 1, 0, 3]].copy()
    moved[1, 3] = 0.6
    make(tmp_path / "data", blocks().transpose(2, 1, 0), moved)
    (change,) = repaired(tmp_path, resample_labels=True)
    assert change.change == "resample to the image"
    np.testing.assert_array_equal(label_map(tmp_path)[0], blocks())


def test_labels_that_resampling_cuts_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = AFFINE.copy()
    moved[2, 3] = -3 * AFFINE[2, 2]  # three slices down: two of the three slices of label 1 go
    make(tmp_path / "data", blocks(), moved)
    (change,) = repaired(tmp_path, resample_labels=True)
    assert change.before.endswith("; 31 voxels, 0.186 mL")
    assert change.after == "same grid; 13 voxels, 0.078 mL"
    assert "case a: " in caplog.text
    assert "loses 67 % of label 1 (0.162 mL before, 0.054 mL after)" in caplog.text
    assert "label 2" not in caplog.text


@pytest.mark.parametrize(("slices", "label"), [(-4, "label 1"), (-6, "labels 1, 2")])
def test_a_label_map_of_which_a_label_would_vanish_is_not_resampled(
    tmp_path: Path, slices: int, label: str, caplog: pytest.LogCaptureFixture
) -> None:
    moved = AFFINE.copy()
    moved[2, 3] = slices * AFFINE[2, 2]
    make(tmp_path / "data", blocks(), moved)
    assert repaired(tmp_path, resample_labels=True) == ()
    assert f"would lose all of {label}" in caplog.text


def test_values_are_mapped_whatever_their_sign(tmp_path: Path) -> None:
    stored = blocks().astype(np.int16)
    stored[stored == 2] = 255
    stored[0, 0, 0] = -1
    make(tmp_path / "data", stored)
    changes = repaired(tmp_path, label_map={255: 2, -1: 0, 9: 1})
    told = [(change.before, change.after) for change in changes]
    assert told == [("255 (4 voxels)", "2"), ("-1 (1 voxels)", "0")]
    np.testing.assert_array_equal(label_map(tmp_path)[0], blocks())


def test_values_that_change_places_are_not_mixed(tmp_path: Path) -> None:
    make(tmp_path / "data")
    repaired(tmp_path, label_map={1: 2, 2: 1})
    np.testing.assert_array_equal(label_map(tmp_path)[0], np.array([0, 2, 1])[blocks()])


def test_masks_are_merged(tmp_path: Path) -> None:
    stacked = np.stack([blocks() == 1, blocks() == 2], axis=-1).astype(np.float64)
    make(tmp_path / "data", stacked)
    (change,) = repaired(tmp_path, onehot=True)
    assert (change.before, change.after) == ("2 masks", "labels 0, 1, 2")
    np.testing.assert_array_equal(label_map(tmp_path)[0], blocks())


def test_voxels_without_a_number_get_one(tmp_path: Path) -> None:
    image = np.arange(blocks().size, dtype=np.float32).reshape(SHAPE)
    image[1, 1, 1], image[2, 2, 2] = np.nan, -np.inf
    make(tmp_path / "data", image=image)
    (change,) = repaired(tmp_path, replace_nonfinite=-7.0)
    assert (change.file, change.before, change.after) == ("images/a.nii.gz", "2 voxels", "-7")
    written = np.asarray(nib.load(tmp_path / "copy" / "images" / "a.nii.gz").dataobj)
    image[1, 1, 1] = image[2, 2, 2] = -7
    np.testing.assert_array_equal(written, image)


def test_channels_are_resampled_to_the_first(tmp_path: Path) -> None:
    root = tmp_path / "data"
    coarse = np.diag([-2.0, 2.0, 3.0, 1.0])
    coarse[0, 3] = -0.5
    for name in "ab":
        save(root / "images" / f"{name}_0000.nii.gz", np.ones(SHAPE, np.int16))
        save(root / "labels" / f"{name}.nii.gz", blocks())
    save(root / "images" / "b_0001.nii.gz", np.ones(SHAPE, np.int16))
    save(root / "images" / "a_0001.nii.gz", np.full((4, 7, 6), 3, np.int16), coarse)
    (change,) = repaired(tmp_path, resample_channels=True)
    assert change.file == "images/a_0001.nii.gz"
    written = nib.load(tmp_path / "copy" / change.file)
    np.testing.assert_array_equal(written.affine, AFFINE)
    np.testing.assert_allclose(np.asarray(written.dataobj), 3)


def test_a_channel_without_numbers_is_not_resampled_unless_they_are_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coarse = np.full((4, 7, 6), 3, np.float32)
    coarse[2, 3, 3] = np.nan
    for kind in ("kept", "replaced"):
        images = tmp_path / kind / "data" / "images"
        save(images / "a_0000.nii.gz", np.ones(SHAPE, np.int16))
        save(images / "a_0001.nii.gz", coarse, np.diag([-2.0, 2.0, 3.0, 1.0]))
        save(tmp_path / kind / "data" / "labels" / "a.nii.gz", blocks())
    assert repaired(tmp_path / "kept", resample_channels=True) == ()
    assert "a_0001.nii.gz has 1 voxels that are not finite numbers" in caplog.text
    assert "add --replace-nonfinite 0" in caplog.text
    replaced, _ = repaired(tmp_path / "replaced", resample_channels=True, replace_nonfinite=3.0)
    written = nib.load(tmp_path / "replaced" / "copy" / replaced.file)
    np.testing.assert_allclose(np.asarray(written.dataobj), 3)


def test_a_torn_file_is_copied_and_the_others_repaired(tmp_path: Path) -> None:
    root = make(tmp_path / "data", blocks() * np.float32(0.9999))
    torn = root / "labels" / "b.nii.gz"
    torn.write_bytes(torn.read_bytes()[:60])
    (change,) = repaired(tmp_path)
    assert change.case == "a"


@pytest.mark.parametrize("inside", ["data", "data/copy", "."])
def test_the_copy_may_not_lie_in_or_around_the_data(tmp_path: Path, inside: str) -> None:
    root = make(tmp_path / "data")
    before = bytes_of(tmp_path)
    with pytest.raises(ConfigError, match="beside it"):
        repair(find_cases(root), tmp_path / inside, Remedies())
    assert bytes_of(tmp_path) == before


def test_names_within_a_label_map_go_with_their_values(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    (root / "labels" / "a.nii.gz").unlink()
    names = {1: "cyst", 2: "tumor", 5: "liver"}
    like = read_image(root / "images" / "a.nii.gz")
    write_labels(root / "labels" / "a.seg.nrrd", blocks(), like, names=names)
    repaired(tmp_path, label_map={1: 2, 2: 3})
    found = read_labels(tmp_path / "copy" / "labels" / "a.seg.nrrd")
    assert np.unique(found.labels).tolist() == [0, 2, 3]
    assert found.names == {2: "cyst", 3: "tumor", 5: "liver"}


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "x").write_text("mine")
    with pytest.raises(RunError, match="copy is not empty"):
        repair(find_cases(root), tmp_path / "copy", Remedies())


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "data")
    monkeypatch.setattr("medseg3d.machine.free_disk", lambda _: 100)
    with pytest.raises(RunError, match="100 bytes are free"):
        repair(find_cases(root), tmp_path / "copy", Remedies())
    assert not (tmp_path / "copy").exists()


def test_an_interrupted_copy_has_whole_files_only_and_is_refused_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = make(tmp_path / "data", blocks() * np.float32(0.9999)), tmp_path / "copy"
    real, copied = module.shutil.copyfile, []

    def stop_in_the_middle(source: Path, target: Path) -> None:
        if len(copied) == 2:
            target.write_bytes(source.read_bytes()[:40])
            raise KeyboardInterrupt
        copied.append(real(source, target))

    monkeypatch.setattr(module.shutil, "copyfile", stop_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        repair(find_cases(root), out, Remedies())
    before = bytes_of(root)
    there = bytes_of(out)
    assert {name for name in there if there[name] != before[name]} == {"labels/a.nii.gz"}
    assert len(there) == 3
    with pytest.raises(RunError, match="interrupted"):
        repair(find_cases(root), out, Remedies())


def test_resampling_to_a_finer_grid_agrees_with_the_separable_one() -> None:
    """Two ways to the same voxels: a grid of half the spacing over the same box."""
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[1:4, 2:5, 3:6], labels[4, 1, 1] = 1, 2
    fine = np.diag([0.5, 0.5, 0.5, 1.0])
    fine[:3, 3] = -0.25
    found = labels_onto(labels, Grid((6, 6, 6), np.eye(4)), Grid((12, 12, 12), fine))
    inner = (slice(1, 11),) * 3  # beyond the outermost centers, the one sees background
    np.testing.assert_array_equal(found[inner], resample_labels(labels, (12, 12, 12))[inner])


def test_intensities_are_resampled_linearly_in_place() -> None:
    ramp = np.arange(5, dtype=np.float32).reshape(1, 5, 1, 1)
    half = np.diag([0.5, 1.0, 1.0, 1.0])
    found = image_onto(ramp, Grid((5, 1, 1), np.eye(4)), Grid((9, 1, 1), half))
    np.testing.assert_allclose(found.ravel(), np.arange(9) / 2)
