"""File names: which are images, and what case they belong to; and what importing costs."""

import resource
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg3d.errors import DataError, RunError
from medseg3d.geometry.grid import Grid
from medseg3d.io import (
    OUTPUTS,
    SUFFIXES,
    Volume,
    case_stem,
    read_image,
    read_labels,
    sources,
    write_labels,
)
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


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha", ".mgz"])
def test_a_file_that_may_not_grow_is_whole_or_absent(tmp_path: Path, suffix: str) -> None:
    large = np.random.default_rng(0).integers(0, 4, (30, 30, 30)).astype(np.uint8)
    small = large[:10, :10, :10]
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, usual[1]))
        with pytest.raises(RunError, match="cannot be written"):
            write_labels(tmp_path / f"large{suffix}", large, on_own_grid(large))
        write_labels(tmp_path / f"small{suffix}", small, on_own_grid(small))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert [path.name for path in tmp_path.iterdir()] == [f"small{suffix}"]
    assert np.array_equal(read_labels(tmp_path / f"small{suffix}").labels, small)


def on_own_grid(labels: np.ndarray) -> Volume:
    image = labels[None].astype(np.float32)
    return Volume.from_array(image, Grid(image.shape[1:], np.eye(4)))
