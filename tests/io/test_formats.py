"""File names: which are images, and what case they belong to; and what importing costs."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg3d.errors import DataError
from medseg3d.io import OUTPUTS, SUFFIXES, case_stem, read_image, sources
from medseg3d.io.formats import format_of


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("case.nii.gz", "case"),
        ("case.NII.GZ", "case"),
        ("case.v1.2.nii.gz", "case.v1.2"),
        ("case.v1.2.nii", "case.v1.2"),
        ("a/b/case_0000.mha", "case_0000"),
        ("case.img", "case"),
        ("case.hdr", "case"),
        ("case.gipl.gz", "case"),
        ("-rf.nii.gz", "-rf"),
        ("case.nii.gz.nii.gz", "case.nii.gz"),
        (".nii.gz", ".nii.gz"),
        ("case.dcm", "case"),
        ("case.seg.nrrd", "case"),
        ("case.v1.nrrd", "case.v1"),
        ("case.jpg", "case.jpg"),
    ],
)
def test_only_the_image_suffix_is_taken_off(name: str, stem: str) -> None:
    assert case_stem(name) == stem
    assert case_stem(Path(name)) == stem


def test_suffixes_are_lower_case_with_dots_and_once_each() -> None:
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)


def test_unknown_suffixes_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jpg has no known image suffix.*\.nii\.gz.*\.mha"):
        read_image(tmp_path / "a.jpg")


def test_importing_loads_neither_torch_nor_simpleitk() -> None:
    code = (
        "import sys, medseg3d.io; "
        "heavy = {'torch', 'SimpleITK', 'monai', 'torchio', 'highdicom'}; "
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_detached_header_is_read_from_two_files(tmp_path: Path) -> None:
    pair = nib.Nifti1Pair(np.zeros((2, 3, 4), dtype=np.int16), np.eye(4))
    nib.save(pair, tmp_path / "a.img")
    assert sources(tmp_path / "a.hdr") == (tmp_path / "a.hdr", tmp_path / "a.img")
    header = "NDims = 3\nDimSize = 2 3 4\nElementType = MET_SHORT\nElementDataFile = b.raw\n"
    (tmp_path / "b.mhd").write_text(header)
    assert sources(tmp_path / "b.mhd") == (tmp_path / "b.mhd", tmp_path / "b.raw")
    assert sources(tmp_path / "c.nii.gz") == (tmp_path / "c.nii.gz",)


def test_every_output_format_is_written_by_its_suffix() -> None:
    assert all(suffix in SUFFIXES for suffix in OUTPUTS.values())
    assert {format_of(Path(f"a{suffix}")).suffixes[0] for suffix in OUTPUTS.values()} == {
        *(".nii.gz", ".nrrd", ".seg.nrrd", ".mgz", ".dcm")
    }
