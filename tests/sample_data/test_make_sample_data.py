"""The sample data are what their script makes, small, sound, and no matter of a threshold."""

import gzip
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

FOLDER = Path(__file__).parents[2] / "sample_data"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_sample_data", FOLDER / "make_sample_data.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample_data")
    script.write_all(out)
    return out


def volumes(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.nii.gz")}


def test_the_script_makes_the_same_voxels_and_affines(made: Path) -> None:
    committed, again = volumes(FOLDER), volumes(made)
    assert committed.keys() == again.keys()
    assert len(committed) == 20
    for name, path in committed.items():
        stored, remade = nib.load(path), nib.load(again[name])
        assert stored.get_data_dtype() == remade.get_data_dtype()
        np.testing.assert_array_equal(stored.dataobj, remade.dataobj, err_msg=name)
        np.testing.assert_array_equal(stored.affine, remade.affine, err_msg=name)
    assert (FOLDER / "dataset.json").read_text() == (made / "dataset.json").read_text()


def test_the_files_are_small_and_carry_no_time() -> None:
    assert sum(path.stat().st_size for path in volumes(FOLDER).values()) < 3_000_000
    for path in volumes(FOLDER).values():
        assert path.read_bytes()[4:8] == bytes(4)  # the time stamp of gzip


def test_making_them_again_takes_nothing_from_who_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "imagesTr" / "case_0000.nii.gz"
    script.write_nifti(path, np.zeros((2, 2, 2), np.int16), np.eye(4))
    with path.open("rb") as reader:
        script.write_nifti(path, np.ones((2, 2, 2), np.int16), np.eye(4))
        stored = nib.Nifti1Image.from_bytes(gzip.decompress(reader.read()))
    assert not np.asarray(stored.dataobj).any()
    assert np.asarray(nib.load(path).dataobj).all()
    assert list(tmp_path.rglob("*.nii.gz")) == [path]


def test_what_says_that_they_are_whole_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(name: str, storage: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "make_case", stop)
    with pytest.raises(KeyboardInterrupt):
        script.write_all(tmp_path)
    assert not (tmp_path / "dataset.json").exists()


@pytest.mark.parametrize("name", [*script.TRAINING, *script.HELD_OUT])
def test_every_case_has_a_liver_with_lesions_on_the_right_of_the_patient(name: str) -> None:
    suffix = "Tr" if name in script.TRAINING else "Ts"
    image = nib.load(FOLDER / f"images{suffix}" / f"{name}_0000.nii.gz")
    stored = nib.load(FOLDER / f"labels{suffix}" / f"{name}.nii.gz")
    hu, labels = np.asarray(image.dataobj), np.asarray(stored.dataobj)
    np.testing.assert_array_equal(image.affine, stored.affine)
    ml = abs(np.linalg.det(stored.affine)) / 1000
    assert 1000 < ml * (labels > 0).sum() < 2000
    assert 1 <= ndimage.label(labels == script.TUMOR)[1] <= 3
    around = labels[ndimage.binary_dilation(labels == script.TUMOR)]
    assert (around > 0).mean() > 0.95
    liver, tumor = hu[labels == 1].mean(), hu[labels == 2].mean()
    assert 80 < liver < 120
    assert 15 < liver - tumor < 60
    # RAS+: x grows towards the right of the patient
    body = np.argwhere(hu > -300).mean(axis=0)
    center = np.argwhere(labels > 0).mean(axis=0)
    assert (stored.affine[:3, :3] @ (center - body))[0] > 30


def test_storage_differs_between_the_cases() -> None:
    storages = (script.TRAINING | script.HELD_OUT).values()
    assert len({storage.shape for storage in storages}) == 10
    assert len({storage.spacing for storage in storages}) == 10
    assert all(storage.spacing[2] > storage.spacing[0] for storage in storages)
    tilts = [script.TRAINING[name].tilt_degrees for name in script.TRAINING]
    assert sorted(tilts)[-2:] == [0.0, 12.0]
    affine = nib.load(FOLDER / "labelsTr" / "abdomen_03.nii.gz").affine
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    angle = np.degrees(np.arccos((np.trace(directions) - 1) / 2))
    assert angle == pytest.approx(12, abs=0.01)


def test_one_threshold_does_not_find_the_liver() -> None:
    single, bounded = script.best_threshold_dice(FOLDER)
    assert single < 0.6
    assert bounded < 0.8
