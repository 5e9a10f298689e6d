"""Damaged, cut and disguised files: each is refused with what was found."""

import bz2
import errno
import gzip
import os
import re
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg3d.errors import DataError
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume, read_grid, read_image, streams, voxels, write_image
from medseg3d.io.streams import CHUNK, open_stream
from tests.limits import limited

VOXELS = np.random.default_rng(0).integers(0, 50, (24, 28, 20)).astype(np.int16)


@pytest.fixture
def plain(tmp_path: Path) -> bytes:
    nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), tmp_path / "whole.nii")
    return (tmp_path / "whole.nii").read_bytes()


def refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read_image(path)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 400


def cut(packed: bytes) -> bytes:
    return packed[: len(packed) // 2]


def cut_footer(packed: bytes) -> bytes:
    return packed[:-3]


def rot(packed: bytes) -> bytes:
    """One wrong byte that still unpacks, as nibabel would let pass."""
    content = bytearray(packed)
    content[len(packed) // 2] ^= 0x55
    return bytes(content)


def wrong_sum(packed: bytes) -> bytes:
    return packed[:-8] + bytes(4) + packed[-4:]


def wrong_length(packed: bytes) -> bytes:
    return packed[:-4] + bytes(4)


@pytest.mark.parametrize("damage", [cut, cut_footer, rot, wrong_sum, wrong_length])
def test_damaged_gzip_is_refused(
    tmp_path: Path, plain: bytes, damage: Callable[[bytes], bytes]
) -> None:
    refused(tmp_path / "a.nii.gz", damage(gzip.compress(plain)), "cut short|damaged")


@pytest.mark.parametrize("damage", [rot, wrong_sum, wrong_length])
def test_the_header_alone_can_be_read_from_a_file_with_damaged_voxels(
    tmp_path: Path, plain: bytes, damage: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "a.nii.gz").write_bytes(damage(gzip.compress(plain)))
    assert read_grid(tmp_path / "a.nii.gz")[0].shape == VOXELS.shape


@pytest.mark.parametrize("size", [1, 347, 352, 5000])
def test_cut_plain_files_are_refused(tmp_path: Path, plain: bytes, size: int) -> None:
    refused(tmp_path / "a.nii", plain[:size], "cut short|not a NIfTI")


def test_whole_gzip_of_a_cut_file_says_how_much_there_is(tmp_path: Path, plain: bytes) -> None:
    content = gzip.compress(plain[:20000])
    refused(tmp_path / "a.nii.gz", content, "holds 20000 of the 27232 bytes")


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz", ".nrrd"])
def test_a_cut_gzip_says_how_much_of_what_is_declared_it_holds(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, VOXELS, like=Volume.from_array(VOXELS[None], Grid(VOXELS.shape, np.eye(4))))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut short: .* about (\d+) of (\d+) bytes") as raised:
        read_image(path)
    held, declared = map(int, re.findall(r"about (\d+) of (\d+)", str(raised.value))[0])
    offset = {".nii.gz": 352, ".mgz": 284, ".nrrd": 0}[suffix]
    assert declared == offset + VOXELS.nbytes
    assert 0.3 < held / declared < 0.7


def test_a_gzip_cut_after_its_voxels_says_so(tmp_path: Path, plain: bytes) -> None:
    refused(tmp_path / "a.nii.gz", cut_footer(gzip.compress(plain)), "after all 27232 bytes")


def test_several_gzip_members_are_one_file(tmp_path: Path, plain: bytes) -> None:
    parts = [plain[:100], plain[100:1000], plain[1000:]]
    (tmp_path / "a.nii.gz").write_bytes(b"".join(map(gzip.compress, parts)))
    volume = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.array[0], VOXELS)
    assert volume.notes == ()


def test_damage_in_a_later_member_is_found(tmp_path: Path, plain: bytes) -> None:
    content = gzip.compress(plain[:1000]) + wrong_sum(gzip.compress(plain[1000:]))
    refused(tmp_path / "a.nii.gz", content, "damaged")


def test_junk_after_the_voxels_is_noted(tmp_path: Path, plain: bytes) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(plain) + b"garbage" * 10)
    (tmp_path / "b.nii").write_bytes(plain + b"garbage")
    for name in ("a.nii.gz", "b.nii"):
        volume = read_image(tmp_path / name)
        np.testing.assert_array_equal(volume.array[0], VOXELS)
        assert "bytes after its voxels" in volume.notes[0]


def test_padding_with_zeros_is_silent(tmp_path: Path, plain: bytes) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(plain) + bytes(512))
    assert read_image(tmp_path / "a.nii.gz").notes == ()


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, 3 * CHUNK + 17])
def test_streams_return_every_byte(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8).tobytes()
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "a.gz").write_bytes(
        gzip.compress(content[: size // 2], 1) + gzip.compress(content[size // 2 :], 1)
    )
    for name in ("a", "a.gz"):
        with open_stream(tmp_path / name, "gzip" if name == "a.gz" else "raw") as stream:
            assert stream.skip(10) == 10
            assert stream.read(size) == content[10:]
            assert not stream.finish()


@pytest.mark.parametrize(
    ("content", "likeness"),
    [
        (b"this is not an image\n" * 50, "text"),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (bytes(128) + b"DICM" + bytes(500), "DICOM"),
        (b"PK\x03\x04" + bytes(600), "zip archive"),
        (b"\x89PNG\r\n" + bytes(600), "PNG"),
    ],
)
def test_disguised_files_are_told_by_their_looks(
    tmp_path: Path, content: bytes, likeness: str
) -> None:
    refused(tmp_path / "a.nii", content, f"looks like .*{likeness}")
    refused(tmp_path / "b.nii.gz", content, f"not gzip .*looks like .*{likeness}")
    refused(tmp_path / "c.nii.gz", gzip.compress(content), f"looks like .*{likeness}")
    refused(tmp_path / "d.mgh", content, f"looks like .*{likeness}")
    refused(tmp_path / "e.nrrd", content, f"looks like .*{likeness}")


def test_noise_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(4096)
    refused(tmp_path / "a.nii", noise, "no NIfTI signature")
    refused(tmp_path / "a.nii.gz", noise, "is not gzip")
    refused(tmp_path / "a.nii.gz", gzip.compress(noise), "no NIfTI signature")


def test_gzip_must_be_named_so_and_nothing_else(tmp_path: Path, plain: bytes) -> None:
    refused(tmp_path / "a.nii.gz", plain, "not gzip .*uncompressed NIfTI")
    refused(tmp_path / "a.nii", gzip.compress(plain), "is gzip although")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz", ".nrrd", ".mha", ".gipl"])
def test_empty_files_are_called_empty(tmp_path: Path, suffix: str) -> None:
    refused(tmp_path / f"a{suffix}", b"", "empty file")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_what_is_no_file_is_said_to_be_none(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(DataError, match="does not exist"):
        read_image(path)
    path.symlink_to("nowhere")
    with pytest.raises(DataError, match="a link to nowhere, which does not exist"):
        read_image(path)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(DataError, match="leads back to itself"):
        read_image(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_image(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a regular file"):
        read_image(path)


def test_a_link_to_a_file_is_followed(tmp_path: Path, plain: bytes) -> None:
    (tmp_path / "real.nii").write_bytes(plain)
    (tmp_path / "a.nii").symlink_to("real.nii")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii").array[0], VOXELS)


def test_permission_is_named(tmp_path: Path, plain: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.nii").write_bytes(plain)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DataError, match="permission denied"):
        read_image(tmp_path / "a.nii")


def test_a_failing_disk_is_a_data_error(
    tmp_path: Path, plain: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.nii").write_bytes(plain)

    def failing(path: Path, flags: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(DataError, match=r"a\.nii cannot be read: Input/output error"):
        read_image(tmp_path / "a.nii")


def test_a_header_beyond_the_memory_is_refused(
    tmp_path: Path, plain: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.nii").write_bytes(plain)
    monkeypatch.setattr(voxels, "memory_room", lambda: 60_000)
    with pytest.raises(DataError, match=r"a.nii needs 78\.8 KiB of memory and 52\.7 KiB are left"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("swap", ["rewritten", "replaced", "gone"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, plain: bytes, monkeypatch: pytest.MonkeyPatch, swap: str
) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(plain))
    fill = streams.Stream.fill

    def disturbed(self: streams.Stream, buffer: memoryview) -> int:
        found = fill(self, buffer)
        if len(buffer) == VOXELS.nbytes:
            if swap == "replaced":
                path.rename(tmp_path / "old")
            if swap == "gone":
                path.unlink()
            else:
                path.write_bytes(gzip.compress(plain[:-2] + b"no"))
                os.utime(path, ns=(1, 1))
        return found

    monkeypatch.setattr(streams.Stream, "fill", disturbed)
    with pytest.raises(DataError, match=r"a\.nii\.gz (was changed while|does not exist)"):
        read_image(path)


def test_a_pipe_that_takes_the_place_of_a_file_does_not_stop_the_work(
    tmp_path: Path, plain: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(plain)
    opening = os.open

    def swapped(name: Path, flags: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return opening(name, flags)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(DataError, match="not a regular file"):
        read_image(path)


def test_no_more_than_twice_the_declared_bytes_are_unpacked(tmp_path: Path) -> None:
    with (tmp_path / "a.gz").open("wb") as file:
        file.write(gzip.compress(bytes(100)) + 9 * gzip.compress(bytes(16 << 20), 1))
    with open_stream(tmp_path / "a.gz", "gzip") as stream:
        stream.skip(100)
        with pytest.raises(DataError, match=r"to more than 64\.0 MiB, its header declares 100"):
            stream.finish()


def test_sparse_files_are_not_read_to_their_end(tmp_path: Path, plain: bytes) -> None:
    (tmp_path / "a.nii").write_bytes(plain)
    os.truncate(tmp_path / "a.nii", 1 << 40)
    with limited(5):
        assert "bytes after its voxels" in read_image(tmp_path / "a.nii").notes[0]


@pytest.mark.parametrize("packing", ["zlib", "bzip2"])
def test_other_packings_are_checked_as_well(tmp_path: Path, packing: streams.Packing) -> None:
    pack = {"zlib": zlib.compress, "bzip2": bz2.compress}[packing]
    packed = pack(VOXELS.tobytes())
    for content, message in (
        (packed, ""),
        (packed[:-5], "cut short"),
        (rot(packed), "damaged|cut short"),
    ):
        (tmp_path / "a").write_bytes(b"head" + content)
        with (
            pytest.raises(DataError, match=message) if message else nullcontext(),
            open_stream(tmp_path / "a", packing, start=4) as stream,
        ):
            assert stream.read(VOXELS.nbytes) == VOXELS.tobytes()
            assert not stream.finish()


def test_lack_of_memory_is_a_data_error(
    tmp_path: Path, plain: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.nii").write_bytes(plain)

    def starved(*_: object) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(voxels.np, "empty", starved)
    with pytest.raises(DataError, match=r"a\.nii needs more memory than is free .*9 GiB"):
        read_image(tmp_path / "a.nii")
