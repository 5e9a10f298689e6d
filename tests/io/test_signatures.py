"""What files are, told by their first bytes."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from medseg3d.io.signatures import NUM_BYTES, looks_like

VOXELS = np.zeros((4, 5, 6), np.int16)


@pytest.mark.parametrize(
    ("content", "likeness"),
    [
        (nib.Nifti1Image(VOXELS, np.eye(4)).to_bytes(), "an uncompressed NIfTI image"),
        (nib.Nifti2Image(VOXELS, np.eye(4)).to_bytes(), "an uncompressed NIfTI image"),
        (nib.nifti1.Nifti1PairHeader().binaryblock, "the header of a NIfTI pair"),
        (nib.analyze.AnalyzeHeader().binaryblock, "an ANALYZE header"),
        (nib.MGHImage(VOXELS, np.eye(4)).to_bytes(), "a FreeSurfer volume"),
        (b"NRRD0005\ntype: short\n", "an NRRD image"),
        (b"ObjectType = Image\nNDims = 3\n", "a MetaImage"),
        (bytes(252) + b"\xef\xff\xe9\xb0", "a GIPL image"),
        (gzip.compress(b"text"), "gzip data"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100", "DICOM"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (bytes(200), "nothing but zeros"),
        (b"once upon a time\n", "text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_first_bytes_tell(content: bytes, likeness: str) -> None:
    found = looks_like(content[:NUM_BYTES])
    assert found is not None
    assert found.split(";")[0].startswith(likeness)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x01", bytes(range(256)) * 4], ids=["empty", "two", "all"]
)
def test_nothing_is_guessed(content: bytes) -> None:
    assert looks_like(content) is None
