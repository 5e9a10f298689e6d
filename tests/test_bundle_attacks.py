"""What is no bundle, is damaged or means harm is refused whole, in one sentence."""

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg3d.bundle import Bundle, inspect_bundle, load_bundle, read_bundle, save_bundle
from medseg3d.bundle.layout import CENTRAL, END, LOCAL, Member, frame, manifest
from medseg3d.bundle.strict_json import parse_object
from medseg3d.data.plan import Normalization, Plan
from medseg3d.errors import ModelError
from medseg3d.networks import build_network

OPTIONS = {"width": 2, "strides": [2]}
NAMES = ("manifest.json", "model.json", "weights.safetensors")
Parts = tuple[dict[str, Any], dict[str, Any], bytes]
"""Description, safetensors header and weights of a bundle."""

BUNDLE = Bundle(
    network="unet3d",
    options=OPTIONS,
    plan=Plan(
        num_cases=3,
        labels={0: "background", 1: "liver"},
        channels=(Normalization(name="CT", scheme="ct", lower=-9, upper=99, mean=40, sd=20),),
        spacing=(1.0, 1.0, 2.5),
        coarse_axis=None,
        median_shape=(64, 64, 32),
        patch_size=(32, 32, 16),
        batch_size=2,
        strides=((2, 2, 2),),
        kernels=((3, 3, 3), (3, 3, 3)),
        width=2,
        max_width=320,
    ),
    channels=1,
    cases={"a": "0" * 64},
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("good") / "model.medseg3d"
    save_bundle(path, BUNDLE, build_network("unet3d", 1, 2, options=OPTIONS))
    assert load_bundle(path)[0] == BUNDLE
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.medseg3d"


def refused(path: Path, content: bytes | None = None) -> str:
    """The one sentence with which all readers refuse a file, without much memory."""
    if content is not None:
        path.write_bytes(content)
    before = sorted(path.parent.rglob("*"))
    tracemalloc.start()
    with pytest.raises(ModelError) as caught:
        load_bundle(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 1000
    assert sorted(path.parent.rglob("*")) == before, "nothing is written"
    return message.removeprefix(f"{path}: ")


def members(content: bytes) -> tuple[bytes, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return file.read("model.json"), file.read("weights.safetensors")


def opened(content: bytes) -> Parts:
    description, weights = members(content)
    length = int.from_bytes(weights[:8], "little")
    return json.loads(description), json.loads(weights[8 : 8 + length]), weights[8 + length :]


def sealed(description: bytes, weights: bytes) -> bytes:
    """A bundle whose digests and zip records are right, whatever is in it."""
    listed = [
        Member(name, len(data), zlib.crc32(data), hashlib.sha256(data).hexdigest())
        for name, data in ((NAMES[1], description), (NAMES[2], weights))
    ]
    first = manifest(listed)
    headers, tail = frame([Member(NAMES[0], len(first), zlib.crc32(first)), *listed])
    contents = (first, description, weights)
    return b"".join(h + c for h, c in zip(headers, contents, strict=True)) + tail


def packed(header: object, weights: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + weights


def resealed(parts: Parts) -> bytes:
    description, header, weights = parts
    return sealed(json.dumps(description).encode(), packed(header, weights))


def test_taking_it_apart_and_putting_it_together_changes_nothing(good: bytes, path: Path) -> None:
    assert sealed(*members(good)) == good
    path.write_bytes(resealed(opened(good)))
    assert load_bundle(path)[0] == BUNDLE


# ------------------------------------------------------------------ around the members


def test_every_bit_around_the_members_counts(good: bytes, path: Path) -> None:
    description, weights = members(good)
    inside = {
        place
        for content in (description, weights)
        for place in range(good.index(content), good.index(content) + len(content))
    }
    around = [place for place in range(len(good)) if place not in inside]
    assert 500 < len(around) < 1000
    for place in around:
        for bit in (1, 0x20, 0x80):
            content = bytearray(good)
            content[place] ^= bit
            path.write_bytes(content)
            with pytest.raises(ModelError):
                inspect_bundle(path)


def test_every_changed_byte_in_a_member_is_noticed(good: bytes, path: Path) -> None:
    description, weights = members(good)
    for content, name in ((description, "model.json"), (weights, "weight")):
        for place in range(0, len(content), 97):
            changed = bytearray(good)
            changed[good.index(content) + place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(ModelError, match=name):
                inspect_bundle(path)


def test_a_changed_weight_is_called_damage(good: bytes, path: Path) -> None:
    content = bytearray(good)
    content[good.index(members(good)[1]) + len(members(good)[1]) - 3] ^= 1
    assert refused(path, bytes(content)) == (
        "weights.safetensors does not match its SHA-256, the file was damaged or changed; copy "
        "it again from where it was trained"
    )


def test_a_truncated_file_says_how_much_is_there(good: bytes, path: Path) -> None:
    assert refused(path, good[:-1]).startswith(f"truncated, {len(good) - 1} of {len(good)} bytes;")
    for keep in range(4, len(good), 331):
        assert refused(path, good[:keep]).split()[0:3] in (
            ["truncated,", f"{keep}", "of"],
            ["truncated", "after", f"{keep}"],
            ["a", "truncated", "zip:"],
        )


def test_bytes_before_or_behind_are_refused(good: bytes, path: Path) -> None:
    assert refused(path, good + b"\0").startswith("1 bytes more than its members need;")
    assert refused(path, good + good).startswith(f"{len(good)} bytes more")
    assert "not a bundle" in refused(path, b"#!/bin/sh\n" + good)
    assert "not a bundle" in refused(path, b"MZ\x90\0" + good)


def edited(good: bytes, number: int, field: int, value: int, *, local: bool = False) -> bytes:
    """One field of one member's record changed, in the central directory or before its data."""
    content = bytearray(good)
    record, signature = (LOCAL, b"PK\x03\x04") if local else (CENTRAL, b"PK\x01\x02")
    place = -1
    for _ in range(number + 1):
        place = good.index(signature, place + 1)
    fields = list(record.unpack_from(content, place))
    fields[field] = value
    record.pack_into(content, place, *fields)
    return bytes(content)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((3, flags) for flags in (1, 8, 0x800)),
        *((4, method) for method in (8, 12, 99)),
        *((size, value) for size in (8, 9) for value in (0, 1 << 31, 0xFFFFFFFF)),
        *((16, offset) for offset in (0, 43, 0xFFFFFFFF)),
        *((7, 0), (10, 0), (11, 4), (12, 9), (13, 1), (15, 0o120777 << 16)),
    ],
)
def test_records_that_lie_are_refused(
    good: bytes, number: int, field: int, value: int, path: Path
) -> None:
    """Encrypted, streamed, compressed, sizes and offsets that lie or overlap, links, zip64."""
    assert refused(path, edited(good, number, field, value)).startswith("its zip records")
    if field <= 11:  # the record before the data has these too, one place earlier
        assert refused(path, edited(good, number, field - 1, value, local=True))


def test_a_zip64_directory_is_refused(good: bytes, path: Path) -> None:
    place = good.rindex(b"PK\x05\x06")
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 3, 3, 171, place - 171)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, place, 1)
    end = END.pack(b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert "more than its members need" in refused(path, good[:place] + record + locator + end)


# ------------------------------------------------------------------ other zips


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = 0) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as file:
        for name, data in entries:
            file.writestr(name, data)
    return content.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info


def test_a_bundle_packed_again_is_refused(good: bytes, path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(good)) as file:
        entries = [(name, file.read(name)) for name in NAMES]
    for again in (zipped(*entries), zipped(*entries, method=8), zipped(*entries[::-1])):
        assert "packed again; only the file as medseg3d wrote it" in refused(path, again)
    more = zipped(*entries, ("readme.txt", b"hello"))
    assert "a zip with the member 'readme.txt'" in refused(path, more)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("model/plans.json", b"{}"), ("../../x.txt", b"x")], "'../../x.txt' climbs out"),
        ([("model.json", b"{}"), ("a/../../x", b"x")], "'a/../../x' climbs out"),
        ([("/etc/cron.d/x", b"x")], "'/etc/cron.d/x' has an absolute path"),
        ([("C:\\x.txt", b"x")], r"'C:\\x.txt' has an absolute path"),
        ([("..\\..\\x.txt", b"x")], r"has a backslash"),
        ([("model/a.json", b"{}"), ("model/A.JSON", b"{}")], "2 members that are all called"),
        ([(link("model.json"), b"/etc/passwd")], "'model.json' is a link"),
        ([("weights/", b"")], "'weights/' is a folder"),
        ([("x\x1b[2J", b"")], "a zip with the member"),
        ([("archive/data.pkl", b"x"), ("archive/version", b"3")], "a PyTorch checkpoint"),
    ],
)
def test_zips_of_others_are_refused_and_not_unpacked(
    entries: list[tuple[str, bytes]], message: str, path: Path
) -> None:
    assert message in refused(path, zipped(*entries))
    assert message in refused(path, zipped(*entries, method=zipfile.ZIP_DEFLATED))


def test_equal_names_are_refused(path: Path) -> None:
    twice = zipped(("model.json", b"1"), ("modem.json", b"2")).replace(b"modem", b"model")
    assert "2 members that are all called 'model.json'" in refused(path, twice)


def test_an_encrypted_zip_is_refused(path: Path) -> None:
    content = bytearray(zipped(("model.json", b"{}")))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    assert "'model.json' is encrypted" in refused(path, bytes(content))


def test_a_bomb_is_refused_by_what_it_claims(path: Path) -> None:
    bomb = zipped(("model/weights.bin", bytes(1 << 24)), method=zipfile.ZIP_DEFLATED)
    assert f"{len(bomb)} bytes that says it unpacks to {1 << 24}" in refused(path, bomb)


def test_a_directory_of_many_entries_does_not_take_long(path: Path) -> None:
    content = zipped(*((f"{number}", b"") for number in range(5_000)))
    assert "a zip with the member '0'" in refused(path, content)


# ------------------------------------------------------------------ other files


class Trap:
    """Makes a file if anything unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_refused_and_not_run(protocol: int, tmp_path: Path, path: Path) -> None:
    content = pickle.dumps({"weights": Trap(tmp_path / "run")}, protocol)
    assert refused(path, content).startswith(
        "a Python pickle, whose loading could run code, not a bundle; give a run folder or a "
        "bundle, which medseg3d export RUN writes"
    )


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_torch_checkpoint_is_refused_and_not_run(
    is_zip: bool, tmp_path: Path, path: Path
) -> None:
    torch.save({"x": Trap(tmp_path / "run")}, path, _use_new_zipfile_serialization=is_zip)
    assert refused(path).startswith("a PyTorch checkpoint, whose loading could run code")


def test_a_lightning_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"pytorch-lightning_version": "2.6.4", "state_dict": {"a": torch.ones(2)}}, path)
    assert refused(path).startswith("a Lightning checkpoint, whose loading could run code")


def tar(target: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        entry = tarfile.TarInfo("model.json")
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        file.addfile(entry)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file; copy it again"),
        (b"P", "a text"),
        (b"PK\x03\x04" + bytes(100), "a truncated zip: its central directory is missing"),
        (b"PK\x05\x06" + bytes(18), "a truncated zip"),
        (tar("../../etc/passwd"), "a tar archive"),
        (gzip.compress(tar("/etc/passwd")), "a gzip file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(80), "an HDF5 file, such as a Keras model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>404", "a text that begins '<!DOCTYPE html><html>404'"),
        (b'{"network": "unet3d"}', "a text that begins"),
        (bytes(344) + b"n+1\0" + bytes(100), "a NIfTI image"),
        (bytes(128) + b"DICM" + bytes(100), "a DICOM file"),
        (packed({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"1"), "bare safe"),
        (packed({"__metadata__": {"medseg3d": "{}"}}, b""), "a model file of an earlier medseg3d"),
        (bytes(5000), "not a bundle, nor of a kind that is known here"),
        (bytes(range(256)) * 20, "not a bundle, nor of a kind"),
    ],
)
def test_other_files_are_called_what_they_are(content: bytes, message: str, path: Path) -> None:
    assert refused(path, content).startswith(message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "no such model file"),
        (Path.mkdir, "a folder, not a regular file"),
        (lambda path: os.mkfifo(path), "a device, pipe or socket"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, pipe or socket"),
        (lambda path: path.symlink_to("gone"), "no such model file"),
        (lambda path: path.symlink_to(path.name), "cannot be read (Too many levels"),
    ],
)
def test_what_is_no_regular_file_is_refused(
    make: Callable[[Path], None], message: str, path: Path
) -> None:
    make(path)
    assert refused(path).startswith(message)


def test_names_that_cannot_be_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / ("x" * 300)).startswith("cannot be read (File name too long)")
    with pytest.raises(ModelError, match="no possible file name"):
        read_bundle(Path("a\0b"))
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file" / "model.medseg3d").startswith("no such model file")


def test_a_file_larger_than_any_bundle_is_refused_unread(good: bytes, path: Path) -> None:
    path.write_bytes(good)
    os.truncate(path, 5 << 30)
    assert "bytes more than its members need" in refused(path)
    path.write_bytes(b"")
    os.truncate(path, 5 << 30)
    assert "nor of a kind that is known" in refused(path)


# ------------------------------------------------------------------ the description


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 3}, "model.json has format 3, this medseg3d"),
        ({"format": "2"}, "model.json has format '2'"),
        ({"plans": 1}, "model.json: unknown key 'plans'; did you mean plan?"),
        ({"plans": 1, "medseg3d": "9.9"}, "(written by medseg3d 9.9, this is "),
        ({"channels": 2}, "channels is 2, but the plan has 1"),
        ({"channels": "many"}, "channels: "),
        ({"channels": "1"}, "values of other types than medseg3d writes"),
        ({"channels": True}, "values of other types than medseg3d writes"),
        ({"scores": {"liver": "0.5"}}, "values of other types than medseg3d writes"),
        ({"network": "u" * 10_000}, "it names the network 'uuu"),
        ({"network": "unet4d", "medseg3d": "9.9"}, "does not have (written by 9.9); use the vers"),
        ({"network": "../unet3d"}, "it names the network '../unet3d'"),
        ({"options": {"width": 1 << 40}}, "gives the network an option of"),
        ({"options": {"width": [[[1 << 40]]]}}, "gives the network an option of"),
        ({"options": {"width": 0}}, "width must be 1 or more, got 0"),
        ({"options": {"width": -3}}, "cannot be built from its options"),
        ({"options": {"width": {}}}, "cannot be built from its options"),
        ({"options": {"strides": 3}}, "cannot be built from its options"),
        ({"options": {"strides": [1] * 10_000}}, "(more than 1028 parameters)"),
        ({"options": {"widths": 3}}, "has no option 'widths'"),
        ({"options": {"in_channels": 3}}, "cannot be built from its options"),
        ({"options": []}, "options: "),
        ({"cases": []}, "lists no cases by their id"),
        ({"cases": {"a": 3}}, "no digest for case a"),
        ({"cases": {"a" * 900: "x"}}, "no digest for case aaa"),
        ({"scores": {"liver": "\x1b[31m"}}, "scores.liver: "),
        ({"training": {str(n): [n] for n in range(15_000)}}, "more than 20000 entries"),
        ({"training": {"x": [[]] * 30_000}}, "more than 20000 lists and objects"),
        ({"training": {"x": [0] * 600_000}}, "more than 500000 values"),
    ],
)
def test_a_description_that_cannot_be_is_refused(
    changes: dict[str, Any], message: str, good: bytes, path: Path
) -> None:
    description, header, weights = opened(good)
    assert message in refused(path, resealed((description | changes, header, weights)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": [1 << 20] * 3}, "patch_size (1048576, 1048576, 1048576), which cannot be"),
        ({"patch_size": [0, 8, 8]}, "plan.patch_size.0: input should be greater than 0"),
        ({"spacing": [0, 1, 1]}, "plan.spacing.0: input should be greater than 0"),
        ({"labels": {"1": "liver", "2": "x"}}, "no background 0"),
        ({"labels": {"0": "background"}}, "no label beside the background"),
        ({"channels": []}, "plan.channels: "),
        ({"version": 2}, "plan.version: "),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    changes: dict[str, Any], message: str, good: bytes, path: Path
) -> None:
    description, header, weights = opened(good)
    description["plan"] |= changes
    assert message in refused(path, resealed((description, header, weights)))


def test_another_number_of_labels_names_expected_and_found(good: bytes, path: Path) -> None:
    description, header, weights = opened(good)
    description["plan"]["labels"]["2"] = "tumor"
    message = refused(path, resealed((description, header, weights)))
    assert message == (
        "2 weights do not fit the network it names: heads.0.bias (network float32 (3,), file "
        "float32 (2,)), heads.0.weight (network float32 (3, 2, 1, 1, 1), file float32 "
        "(2, 2, 1, 1, 1)); it was made by another version or edited"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]", "is a JSON list, expected an object"),
        (b"3", "is a JSON int"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b'{"a": ' + b"9" * 30 + b"}", "is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is too large"),
        (b'{"a": 1, "a": 2}', "a key is given twice"),
        (b'{"a": {"b": 1, "b": 1}}', "a key is given twice"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        ('{"a": 1}'.encode("utf-16"), "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a":' * 30 + b"1" + b"}" * 30, "nested more than 24 deep"),
        (b'{"a":' + b"[" * 15_000, "nested more than 24 deep"),
        (b'{"a":' + b"[" * 15_000 + b"]" * 15_000 + b"}", "nested more than 24 deep"),
        (b"[" * 3_000_000, "more than 20000 lists and objects"),
        (b'{"a": 1,}', "not valid JSON"),
    ],
)
def test_json_with_tricks_is_refused(text: bytes, message: str, good: bytes, path: Path) -> None:
    with pytest.raises(ValueError, match=r"^the text ") as caught:
        parse_object(text, where="the text")
    assert message in str(caught.value)
    assert refused(path, sealed(text, members(good)[1])).startswith("model.json ")
    weights = len(text).to_bytes(8, "little") + text
    assert refused(path, sealed(members(good)[0], weights)).startswith("the header of weights")


def test_a_later_format_says_to_update(good: bytes, path: Path) -> None:
    later = good.replace(b'"format": 2,\n "members"', b'"format": 3,\n "members"')
    assert refused(path, later) == "bundle format 3, this medseg3d reads format 2; update medseg3d"


def test_a_description_too_large_is_refused_unread(good: bytes, path: Path) -> None:
    text = members(good)[0] + b" " * (1 << 24)
    assert "at most 16777216 were expected" in refused(path, sealed(text, members(good)[1]))


# ------------------------------------------------------------------ the weights


FIRST = "encoder.0.0.conv.weight"


def with_weight(**changes: Any) -> Callable[[Parts], Parts]:
    def change(parts: Parts) -> Parts:
        description, header, weights = parts
        name = next(name for name in header if name != "__metadata__")
        header[name] |= changes
        return description, header, weights

    return change


def without_one(parts: Parts) -> Parts:
    description, header, weights = parts
    name = list(header)[-1]
    begin, _ = header.pop(name)["data_offsets"]
    return description, header, weights[:begin]


def with_one_more(parts: Parts) -> Parts:
    description, header, weights = parts
    end = len(weights)
    header["zzz"] = {"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]}
    return description, header, weights + bytes(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_weight(dtype="F8_E4M3"), "has dtype F8_E4M3, expected one of F64"),
        (with_weight(dtype=["F32"]), "has dtype ['F32'], expected one of F64"),
        (with_weight(dtype="F16"), "is not as medseg3d writes it"),
        (with_weight(shape=[1 << 62, 1 << 62]), "is not as medseg3d writes it"),
        (with_weight(shape=[-1]), "has no possible shape"),
        (with_weight(shape=[True]), "has no possible shape"),
        (with_weight(shape=[2.0]), "has no possible shape"),
        (with_weight(shape=[1] * 9), "does not describe"),
        (with_weight(shape="2"), "does not describe"),
        (with_weight(data_offsets=[0, 1]), "is not as medseg3d writes it"),
        (with_weight(data_offsets=[8, 16]), "is not as medseg3d writes it"),
        (with_weight(data_offsets=[-8, 0]), "is not as medseg3d writes it"),
        (with_weight(extra=1), "is not as medseg3d writes it"),
        (without_one, "1 weights do not fit the network it names: "),
        (with_one_more, "zzz (network lacks it, file float32 (1,))"),
        (lambda p: (p[0], p[1], p[2] + b"\0"), "bytes, it has"),
        (lambda p: (p[0], p[1], p[2][:-4]), "bytes, it has"),
        (lambda p: (p[0], p[1] | {"__metadata__": {"a": "b"}}, p[2]), "is not as medseg3d writes"),
        (lambda p: (p[0], {"a": 3}, p[2]), "does not describe a"),
        (lambda p: (p[0], {}, b""), "is not as medseg3d writes it"),
        (lambda p: (p[0], p[1], b"\0\0\xc0\x7f" * (len(p[2]) // 4)), "values that are not finite"),
        (lambda p: (p[0], p[1], b"\0\0\x80\x7f" * (len(p[2]) // 4)), "values that are not finite"),
    ],
)
def test_weights_that_cannot_be_are_refused(
    change: Callable[[Parts], Parts], message: str, good: bytes, path: Path
) -> None:
    assert message in refused(path, resealed(change(opened(good))))


@pytest.mark.parametrize("length", [0, 1, 1 << 22, (1 << 22) + 1, 1 << 40, (1 << 64) - 1])
def test_a_header_length_that_lies_is_refused(length: int, good: bytes, path: Path) -> None:
    description, weights = members(good)
    assert refused(path, sealed(description, length.to_bytes(8, "little") + weights[8:]))
    assert refused(path, sealed(description, weights[:7]))


def test_weights_of_many_names_are_refused_with_three(good: bytes, path: Path) -> None:
    description, header, weights = opened(good)
    description["options"]["width"] = 3
    message = refused(path, resealed((description, header, weights)))
    assert "weights do not fit" in message
    assert message.count("(network ") == 3


def test_memory_is_not_taken_for_weights_beyond_the_machine(
    good: bytes, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg3d.bundle.tensors.memory_limit", lambda: 4096)
    assert "of 4.0 KiB of memory; use a machine with more" in refused(path, good)


def test_flags_that_are_neither_true_nor_false_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flags(torch.nn.Module):
        def __init__(self, *_: int) -> None:
            super().__init__()
            self.register_buffer("flags", torch.tensor([True, False]))

    from medseg3d.networks import NETWORKS

    monkeypatch.setitem(NETWORKS._parts, "flags", Flags)
    bundle = BUNDLE.model_copy(update={"network": "flags", "options": {}})
    save_bundle(path, bundle, Flags(1, 2))
    description, header, _ = opened(path.read_bytes())
    assert "neither true nor false" in refused(path, resealed((description, header, b"\1\2")))


# ------------------------------------------------------------------ in a run folder


def test_a_damaged_model_of_a_run_names_the_last_good_one(good: bytes, path: Path) -> None:
    best = path.parent / "checkpoints" / "best.medseg3d"
    best.parent.mkdir()
    assert "last good" not in refused(path, good[:-5])
    best.write_bytes(good[:-9])
    assert "last good" not in refused(path, good[:-5])
    best.write_bytes(good)
    assert refused(path, good[:-5]).endswith(f"; the last good model of this run is {best}")
    path.write_bytes(good)
    assert refused(best, good[:100]).endswith(f"; the last good model of this run is {path}")
    shutil.rmtree(best.parent)


# ------------------------------------------------------------------ at random


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    kind = draw(st.sampled_from(["flip", "cut", "insert", "copy"]))
    share, other = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    noise = draw(st.binary(min_size=1, max_size=12))

    def mutate(content: bytes) -> bytes:
        place, far = int(share * (len(content) - 1)), int(other * (len(content) - 1))
        if kind == "flip":
            return content[:place] + noise + content[place + len(noise) :]
        if kind == "cut":
            return content[:place] + content[place + len(noise) :]
        if kind == "insert":
            return content[:place] + noise + content[place:]
        return content[:place] + content[far : far + 60] + content[place + 60 :]

    return mutate


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutate=mutations(), seals=st.booleans(), of_weights=st.booleans())
def test_a_mutated_bundle_loads_equal_or_is_refused(
    mutate: Callable[[bytes], bytes], seals: bool, of_weights: bool, good: bytes, path: Path
) -> None:
    """With ``seals``, the digests are made right again, so that the content is looked at."""
    description, weights = members(good)
    if seals and of_weights:
        content = sealed(description, mutate(weights[:1500]) + weights[1500:])
    else:
        content = sealed(mutate(description), weights) if seals else mutate(good)
    path.write_bytes(content)
    try:
        bundle, found = load_bundle(path)
    except ModelError:
        return
    assert seals or content == good
    assert bundle.model_dump(mode="json") == json.loads(members(content)[0])
    assert found.keys() == opened(good)[1].keys() - {"__metadata__"}
