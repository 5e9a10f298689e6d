"""100,000 mutated bundles: each loads as what it says, or is refused in one sentence.

A third is changed as it is: bits and fields of the zip records, splices, truncation. In the
others the description or the header of the weights is changed and all digests and zip records
are made right again, as an attacker would, so that what comes after them is reached.

No load may take longer than ``SECONDS`` (a timer interrupts it) or more memory than ``ROOM``:
the address space of the process is limited to what it has after a good bundle was loaded, and
``ROOM`` more, so that a larger request fails as ``MemoryError``, which is not allowed to escape.
"""

import copy
import hashlib
import io
import json
import random
import resource
import signal
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import torch

from medseg3d.bundle import Bundle, load_bundle, save_bundle
from medseg3d.bundle.layout import NAMES, Member, frame, manifest
from medseg3d.data.plan import Normalization, Plan
from medseg3d.errors import ModelError
from medseg3d.networks import build_network

COUNT = 100_000
SEED = 20_250_101
SECONDS = 5.0
ROOM = 192 << 20

OPTIONS = {"width": 2, "strides": [2], "norm": "batch"}
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
    scores={"liver": 0.9},
    training={"fold": 0, "versions": {"torch": "2.13.0"}},
    cases={"a": "0" * 64},
)

EXTREMES: tuple[Any, ...] = (
    *(0, -1, 1, 2, 255, 65_535, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 53, 1 << 63, (1 << 64) - 1),
    *(10**30, 0.5, -0.0, 1e308, 1e-308, True, None, "", "x" * 5000, "\x1b[2J", "\ud800", "nan"),
    *("unet3d", "vnet", "hdenseunet", "F64", "U8", "BOOL", "../x", [], {}, [[]], [0] * 200),
    *([1 << 40] * 8, {"a": {}}, [[[[[[[[]]]]]]]]),
)
FIELDS = (0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("good") / "model.medseg3d"
    save_bundle(path, BUNDLE, build_network("unet3d", 1, 2, options=OPTIONS))
    return path.read_bytes()


def members(content: bytes) -> tuple[bytes, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return file.read(NAMES[1]), file.read(NAMES[2])


def sealed(description: bytes, weights: bytes) -> bytes:
    listed = [
        Member(name, len(data), zlib.crc32(data), hashlib.sha256(data).hexdigest())
        for name, data in zip(NAMES[1:], (description, weights), strict=True)
    ]
    first = manifest(listed)
    headers, tail = frame([Member(NAMES[0], len(first), zlib.crc32(first)), *listed])
    contents = (first, description, weights)
    return b"".join(h + c for h, c in zip(headers, contents, strict=True)) + tail


def bytes_changed(draw: random.Random, content: bytes) -> bytes:
    """Flip, overwrite, cut, insert, copy or truncate, once to four times."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if not changed:
            break
        place, other = draw.randrange(len(changed)), draw.randrange(len(changed))
        length = draw.choice((1, 2, 4, 8, 40))
        match draw.randrange(7):
            case 0:
                changed[place] ^= 1 << draw.randrange(8)
            case 1:
                number = draw.choice(FIELDS)
                width = draw.choice((1, 2, 4))
                changed[place : place + width] = (number % (1 << 8 * width)).to_bytes(
                    width, "little"
                )
            case 2:
                del changed[place : place + length]
            case 3:
                changed[place:place] = draw.randbytes(length)
            case 4:
                changed[place : place + length] = changed[other : other + length]
            case 5:
                changed[place:place] = changed[other : other + length]
            case _:
                if draw.random() < 0.3:
                    del changed[place:]
    return bytes(changed)


def raw(draw: random.Random, good: bytes) -> bytes:
    """As it is; mostly around the members, which are most of the file but of less interest."""
    records = [place for sign in (b"PK\1\2", b"PK\3\4", b"PK\5\6") for place in _all(good, sign)]
    if draw.random() < 0.6:
        place = draw.choice(records)
        return good[:place] + bytes_changed(draw, good[place : place + 50]) + good[place + 50 :]
    if draw.random() < 0.4:
        return bytes_changed(draw, good[:450]) + good[450:]
    return bytes_changed(draw, good)


def _all(content: bytes, sign: bytes) -> list[int]:
    return [place for place in range(len(content)) if content.startswith(sign, place)]


def values_changed(draw: random.Random, value: Any) -> Any:
    """Replace, remove, rename or double values somewhere in a JSON object."""
    changed = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2, 3))):
        here = changed
        while True:
            inner = list(here.items()) if isinstance(here, dict) else list(enumerate(here))
            if not inner:
                break
            place, below = draw.choice(inner)
            if isinstance(below, (dict, list)) and draw.random() < 0.85:
                here = below
                continue
            match draw.randrange(6):
                case 0:
                    del here[place]
                case 1 if isinstance(here, dict):
                    here[str(draw.choice(EXTREMES))] = here.pop(place)
                case 2 if isinstance(here, list):
                    here.extend(here[: draw.randrange(8)])
                case 3 if type(below) is int:
                    here[place] = below + draw.choice((-1, 1, 8, 1000))
                case _:
                    here[place] = copy.deepcopy(draw.choice(EXTREMES))
            break
    return changed


def of_description(draw: random.Random, good: bytes) -> bytes:
    """Another description with right digests."""
    description, weights = members(good)
    if draw.random() < 0.3:
        return sealed(bytes_changed(draw, description), weights)
    return sealed(_text(draw, values_changed(draw, json.loads(description))), weights)


def of_weights(draw: random.Random, good: bytes) -> bytes:
    """Another header of the weights, sometimes other weights, with right digests."""
    description, weights = members(good)
    length = int.from_bytes(weights[:8], "little")
    text, values = weights[8 : 8 + length], weights[8 + length :]
    if draw.random() < 0.4:
        return sealed(description, _consistent(draw, json.loads(text)))
    if draw.random() < 0.3:
        text = bytes_changed(draw, text)
    else:
        text = _text(draw, values_changed(draw, json.loads(text)), (",", ":"))
        text += b" " * (-len(text) % 8)
    if draw.random() < 0.3:
        values = bytes_changed(draw, values)
    said = len(text) if draw.random() < 0.9 else draw.choice(FIELDS) << draw.randrange(33)
    return sealed(description, said.to_bytes(8, "little") + text + values)


def _consistent(draw: random.Random, header: dict[str, Any]) -> bytes:
    """Other names, dtypes and shapes, with the order, offsets and length that belong to them."""
    header.pop("__metadata__")
    sizes = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I8": 1, "BOOL": 1}
    for _ in range(draw.choice((0, 1, 1, 2, 5))):
        name = draw.choice(list(header))
        match draw.randrange(5):
            case 0:
                header[name]["dtype"] = draw.choice(list(sizes))
            case 1 if header[name]["shape"]:
                place = draw.randrange(len(header[name]["shape"]))
                header[name]["shape"][place] = draw.choice((0, 1, 3, 4, 70, 1 << 40, (1 << 63) - 1))
            case 2:
                header[draw.choice(("x", "", f"{name}.a", name.upper()))] = header.pop(name)
            case 3 if len(header) > 1:
                del header[name]
            case _:
                header[f"{name}.again"] = copy.deepcopy(header[name])
    place = 0
    written: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name in sorted(header, key=lambda name: (-sizes[header[name]["dtype"]], name)):
        dtype, shape = header[name]["dtype"], header[name]["shape"]
        end = place + prod(shape) * sizes[dtype]
        written[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(written, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + draw.randbytes(min(place, 1 << 16))


def _text(draw: random.Random, value: Any, separators: tuple[str, str] | None = None) -> bytes:
    text = json.dumps(value, separators=separators)
    if draw.random() < 0.05:
        text = text.replace(":", ': NaN, "a":', 1)
    if draw.random() < 0.03:
        text = '{"a":' * 60 + text + "}" * 60
    return text.encode()


def agrees(says: Any, holds: Any) -> bool:
    """Whether all that the file says is held; what it leaves out has a default."""
    if isinstance(says, dict):
        return all(name in holds and agrees(value, holds[name]) for name, value in says.items())
    if isinstance(says, list):
        return len(says) == len(holds) and all(map(agrees, says, holds))
    return bool(says == holds)


@contextmanager
def limited() -> Iterator[Callable[[], int]]:
    """Limit address space and time; gives the memory taken since, at its highest, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    start = _status("VmSize")
    with suppress(OSError):  # where the highest mark may not be taken back, less is seen
        Path("/proc/self/clear_refs").write_text("5")
    resource.setrlimit(resource.RLIMIT_AS, (start + ROOM, before[1]))
    resident = _status("VmHWM")

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"a load took more than {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, late)
    try:
        yield lambda: _status("VmHWM") - resident
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time as Linux has them")
def test_every_mutated_bundle_loads_as_what_it_says_or_is_refused(
    good: bytes, tmp_path: Path
) -> None:
    draw = random.Random(SEED)
    path = tmp_path / "model.medseg3d"
    path.write_bytes(good)
    original, weights = load_bundle(path)
    found: Counter[str] = Counter()
    sentences: Counter[str] = Counter()
    slowest, loading = 0.0, 0.0
    with limited() as taken:
        for _, kind in zip(range(COUNT), cycle((raw, of_description, of_weights)), strict=False):
            content = kind(draw, good)
            path.write_bytes(content)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            start = perf_counter()
            try:
                bundle, loaded = load_bundle(path)
            except ModelError as error:
                message = str(error)
                assert message.startswith(f"{path}: ")
                assert message.isprintable()
                assert len(message) < 1000
                found[f"{kind.__name__} refused"] += 1
                sentences[message.removeprefix(f"{path}: ")[:24]] += 1
            else:
                found[f"{kind.__name__} accepted"] += 1
                says = json.loads(members(content)[0])
                holds = bundle.model_dump(mode="json")
                assert agrees(says, holds)
                assert kind is not raw or content == good
                if kind is not of_description:
                    assert bundle == original
                assert {n: (t.shape, t.dtype) for n, t in loaded.items()} == {
                    n: (t.shape, t.dtype) for n, t in weights.items()
                }
            took = perf_counter() - start
            signal.setitimer(signal.ITIMER_REAL, 0)
            slowest, loading = max(slowest, took), loading + took
        peak = taken()
    sys.stdout.write(
        f"\n{COUNT} mutated bundles of {len(good)} bytes: {loading:.0f} s, slowest "
        f"{1e3 * slowest:.0f} ms, {peak / 2**20:.0f} MiB more than before at most\n"
        + "".join(f"  {count:6} {name}\n" for name, count in sorted(found.items()))
        + f"  {len(sentences)} beginnings of sentences, such as\n"
        + "".join(f"  {count:6} {name} ...\n" for name, count in sentences.most_common(12))
    )
    assert found["raw refused"] > 0.9 * COUNT / 3
    assert [path.name for path in tmp_path.iterdir()] == ["model.medseg3d"], "nothing was written"
