"""What a prediction does not wait for."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

import medseg3d

HEAVY = ("torch", "lightning", "monai", "torchio", "dask", "pandas", "matplotlib", "SimpleITK")


def test_a_prediction_with_a_converted_model_loads_nothing_heavy(
    tmp_path: Path, tiny_model: Path
) -> None:
    array = np.random.default_rng(0).normal(100, 30, (13, 12, 11)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    medseg3d.predict(tmp_path / "a.nii", model=tiny_model, out=tmp_path / "1.nii")
    code = (
        "import sys, medseg3d\n"
        "medseg3d.predict(sys.argv[1], model=sys.argv[2], out=sys.argv[3])\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    words = [tmp_path / "a.nii", tiny_model, tmp_path / "2.nii"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"
    assert (tmp_path / "1.nii").read_bytes() == (tmp_path / "2.nii").read_bytes()
