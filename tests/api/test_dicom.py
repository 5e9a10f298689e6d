"""From a DICOM series to a DICOM segmentation that is scored beside other label maps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg3d.api import predict, score
from medseg3d.errors import MedSeg3DError
from medseg3d.io import read_image, read_labels

Series = Callable[..., list[Path]]


def test_a_series_becomes_a_segmentation(
    tmp_path: Path, dicom_series: Series, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 300, (10, 14, 12)).astype(np.int16)
    for name in ("P1", "P2"):
        folder = tmp_path / "in" / name
        dicom_series(folder, stored=stored, PatientName="MARKER", PatientID="MARKER")
        (folder / "note.txt").write_text("x")
    caplog.set_level("DEBUG")
    for kind, out in (("dicom-seg", "seg"), ("nii.gz", "nii")):
        options = {"model": tiny_model, "out": tmp_path / out, "format": kind, "device": "cpu"}
        written = predict(tmp_path / "in", **options)
        assert [result.case_id for result in written] == ["P1", "P2"]
    assert "1 files are no slices" in caplog.text
    assert "MARKER" not in caplog.text
    ours, theirs = read_labels(tmp_path / "seg/P1.dcm"), read_labels(tmp_path / "nii/P1.nii.gz")
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert set(np.unique(ours.labels)) <= {0, 3, 7}
    assert ours.labels.any()
    assert ours.grid.same_as(read_image(tmp_path / "in" / "P1").grid)
    result = score(tmp_path / "seg", tmp_path / "nii", out=tmp_path / "scores.csv")
    assert {row.scores["dice"] for row in result.rows if row.case == "P1"} <= {1.0}


def test_a_bad_series_does_not_stop_the_others(
    tmp_path: Path, dicom_series: Series, tiny_model: Path
) -> None:
    stored = np.zeros((7, 14, 12), np.int16)
    stored[3, 4] = 100
    dicom_series(tmp_path / "in" / "P1", stored=stored)
    dicom_series(tmp_path / "in" / "P2", stored=stored)[3].unlink()
    options = {"model": tiny_model, "out": tmp_path / "out", "device": "cpu"}
    with pytest.raises(MedSeg3DError, match=r"P2.* has a gap of 5 mm between 02\.dcm and 04\.dcm"):
        predict(tmp_path / "in", **options)
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["P1.nii.gz"]
