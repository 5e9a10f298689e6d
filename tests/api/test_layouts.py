"""Every recognized layout of a data folder, from files to a prediction."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medseg3d

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
CASES = [f"case_{number}" for number in range(3)]


def volumes(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two channels and a label map with the values 2 and 300."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((12, 12, 10), dtype=np.uint16)
    labels[2:8, 3:9, 2:8] = 300
    labels[4:6, 5:7, 4:6] = 2
    first = rng.normal(10, 1, labels.shape) + 20 * (labels > 0)
    second = rng.normal(50, 1, labels.shape) - 30 * (labels == 2)
    return first.astype(np.float32), second.astype(np.float32), labels


def save(array: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


def write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content))


def two_folders(root: Path) -> list[Path]:
    for seed, case in enumerate(CASES):
        first, second, labels = volumes(seed)
        save(np.stack([first, second], axis=-1), root / "images" / f"{case}.nii.gz")
        save(labels, root / "masks" / f"{case}.nii.gz")
    return [root / "images" / "case_0.nii.gz"]


def nnunet_raw(root: Path) -> list[Path]:
    for seed, case in enumerate(CASES):
        *channels, labels = volumes(seed)
        for number, channel in enumerate(channels):
            save(channel, root / "imagesTr" / f"{case}_000{number}.nii.gz")
        save(labels, root / "labelsTr" / f"{case}.nii.gz")
    content = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "core": 2, "edema": 300},
        "file_ending": ".nii.gz",
        "numTraining": 3,
    }
    write_json(root / "dataset.json", content)
    return [root / "imagesTr" / f"case_0_000{number}.nii.gz" for number in range(2)]


def msd(root: Path) -> list[Path]:
    training = []
    for seed, case in enumerate(CASES):
        first, second, labels = volumes(seed)
        save(np.stack([first, second], axis=-1), root / "imagesTr" / f"{case}.nii.gz")
        save(labels, root / "labelsTr" / f"{case}.nii.gz")
        names = (f"./imagesTr/{case}.nii.gz", f"./labelsTr/{case}.nii.gz")
        training.append(dict(zip(("image", "label"), names, strict=True)))
    content = {
        "modality": {"0": "T1", "1": "FLAIR"},
        "labels": {"0": "background", "2": "core", "300": "edema"},
        "training": training,
    }
    write_json(root / "dataset.json", content)
    return [root / "imagesTr" / "case_0.nii.gz"]


def folder_per_patient(root: Path) -> list[Path]:
    for seed, case in enumerate(CASES):
        *channels, labels = volumes(seed)
        for name, channel in zip(("flair", "t1"), channels, strict=True):
            save(channel, root / case / f"{case}_{name}.nii.gz")
        save(labels, root / case / f"{case}_seg.nii.gz")
    images = [root / "case_0" / f"case_0_{name}.nii.gz" for name in ("flair", "t1")]
    copies = [root.parent / f"input_000{number}.nii.gz" for number in range(2)]
    for image, copy in zip(images, copies, strict=True):
        copy.write_bytes(image.read_bytes())
    return copies


def folder_per_patient_in_one_file(root: Path) -> list[Path]:
    for seed, case in enumerate(CASES):
        first, second, labels = volumes(seed)
        save(np.stack([first, second], axis=-1), root / case / "img.nii.gz")
        save(labels, root / case / "seg.nii.gz")
    return [root / "case_0" / "img.nii.gz"]


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        (two_folders, {"label 2", "label 300"}),
        (nnunet_raw, {"core", "edema"}),
        (msd, {"core", "edema"}),
        (folder_per_patient, {"label 2", "label 300"}),
        (folder_per_patient_in_one_file, {"label 2", "label 300"}),
    ],
)
def test_it_is_learned_from_as_it_is(
    layout: Callable[[Path], list[Path]], names: set[str], tmp_path: Path
) -> None:
    image = layout(tmp_path / "data")
    run = medseg3d.fit(
        tmp_path / "data",
        out=tmp_path / "run",
        cache=tmp_path / "cache",
        epochs=1,
        steps_per_epoch=1,
        folds=3,
        width=4,
        precision="fp32",
        device="cpu",
    )
    assert set(run.dice) == names
    (prediction,) = medseg3d.predict(image, model=run.bundle, out=tmp_path / "out.nii.gz")
    labels = nib.load(prediction.path)
    assert labels.shape == (12, 12, 10)
    assert labels.get_data_dtype() == np.uint16
    assert set(np.unique(np.asarray(labels.dataobj))) <= {0, 2, 300}
