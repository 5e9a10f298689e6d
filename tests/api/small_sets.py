"""Small data sets for the tests of ``--from`` and of sparse annotation."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (12, 10, 10)
SMALL = {
    "epochs": 1,
    "steps_per_epoch": 2,
    "folds": 2,
    "batch_size": 1,
    "precision": "fp32",
    "device": "cpu",
    "validate_every": 1,
    "evidence_cases": 0,
    "postprocess": "none",
}


def write_cases(
    folder: Path,
    labels: dict[str, int],
    channels: tuple[str, ...] = ("MR",),
    *,
    count: int = 4,
    spacing: float = 1.0,
) -> Path:
    """nnU-Net's layout: each label a box along axis 0; ``ignore`` is the upper half of axis 2."""
    boxes = [value for name, value in labels.items() if value and name != "ignore"]
    for number in range(count):
        generator = np.random.default_rng(number)
        truth = np.zeros(SHAPE, dtype=np.uint8)
        for place, value in enumerate(boxes):
            truth[1 + 4 * place : 4 + 4 * place, 3:7, 1:9] = value
        affine = np.diag([spacing, spacing, spacing, 1.0])
        for channel in range(len(channels)):
            image = generator.normal(200, 5, SHAPE) + 50 * truth
            _save(image.astype(np.int16), affine, folder, f"case_{number}_{channel:04d}")
        if "ignore" in labels:
            truth[:, :, 5:] = labels["ignore"]
        _save(truth, affine, folder, f"case_{number}", kind="labelsTr")
    facts = {
        "channel_names": {str(place): name for place, name in enumerate(channels)},
        "labels": labels,
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


def _save(array: np.ndarray, affine: np.ndarray, folder: Path, name: str, kind: str = "imagesTr"):
    (folder / kind).mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), folder / kind / f"{name}.nii.gz")
