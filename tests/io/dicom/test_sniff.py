"""DICOM files are known by their first bytes, cheaply and without following links into loops."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from medseg3d.io.dicom import claims
from medseg3d.io.dicom.sniff import Kind, holds_volume, kind_of, sop_class
from tests.limits import limited

Series = Callable[..., list[Path]]


@pytest.mark.parametrize(
    ("uid", "kind"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", Kind.SLICE),
        ("1.2.840.10008.5.1.4.1.1.128", Kind.SLICE),
        ("1.2.840.10008.5.1.4.1.1.2.1", Kind.FRAMES),
        ("1.2.840.10008.5.1.4.1.1.66.4", Kind.SEGMENTATION),
        ("1.2.840.10008.5.1.4.1.1.66.7", Kind.SEGMENTATION),
        ("1.2.840.10008.5.1.4.1.1.481.3", Kind.OTHER),
        ("1.2.840.10008.1.3.10", Kind.OTHER),
    ],
)
def test_kinds_follow_the_class(tmp_path: Path, dicom_series: Series, uid: str, kind: Kind) -> None:
    file = dicom_series(tmp_path / "a", SOPClassUID=uid)[0]
    assert sop_class(file) == uid
    assert kind_of(file) is kind
    bare = tmp_path / "bare"  # without preamble and group 2
    content = file.read_bytes()
    bare.write_bytes(content[content.index(b"\x08\x00\x08\x00") :])
    assert kind_of(bare) is kind


def test_other_files_are_no_dicom(tmp_path: Path) -> None:
    for number, content in enumerate(
        [b"", b"x" * 200, b"\x08\x00", b"\x08\x00\x05\x00" + b"x" * 300, bytes(400), b"{}"]
    ):
        file = tmp_path / str(number)
        file.write_bytes(content)
        assert kind_of(file) is None
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    for name in ("pipe", "loop", "gone", "absent"):
        assert kind_of(tmp_path / name) is None
    assert not claims(tmp_path)
    assert not holds_volume(tmp_path)
    assert not holds_volume(tmp_path / "absent")


def test_a_file_that_keeps_its_class_to_itself_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(128) + b"DICM" + bytes(40))
    assert sop_class(tmp_path / "a") == ""
    assert kind_of(tmp_path / "a") is Kind.SLICE


def test_real_files_are_known(shared_data: Path) -> None:
    folder = shared_data / "dicom"
    assert kind_of(folder / "pydicom_rtstruct.dcm") is Kind.OTHER
    assert kind_of(folder / "dcmqi_seg_liver.dcm") is Kind.SEGMENTATION
    assert all(kind_of(file) is Kind.SLICE for file in (folder / "ts_ct_j2k").iterdir())
    assert not claims(folder / "ts_ct_j2k_seg.nii.gz")


def test_thousands_of_files_are_no_burden(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"{number}.json").write_bytes(b"{}")
    with limited(1):
        assert not holds_volume(tmp_path)
