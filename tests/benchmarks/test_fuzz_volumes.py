"""Mutated files of every format: each is a volume or a data error, fast and in little memory.

Batches run in processes of their own, so that a crash is seen and memory is limited. A file
that is found to do harm is made again by ``mutant(number)``.
"""

import bz2
import gzip
import json
import multiprocessing
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813

from medseg3d.errors import DataError
from medseg3d.io import read_image, read_labels

NUM_MUTANTS, NUM_PROCESSES = 100_000, 2
MOST_SECONDS = 2.0
ROOM = 256 << 20
SHAPE = (9, 8, 7)
VOXELS = np.random.default_rng(0).integers(0, 9, SHAPE).astype(np.int16)
AFFINE = np.diag([-1.0, 1.5, 2.0, 1.0])
NUMBERS = (0, 1, -1, 2, 3, 7, 127, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1)
WORDS = (
    *("0", "-1", "1e400", "nan", "inf", "-0.0", "3", "99", "999999999999", "9" * 400, "", "none"),
    *("LOCAL", "LIST", "%03d", "../../etc/passwd", "/dev/zero", "a.raw", "a.img", "(1,0,0)", "raw"),
    *("gzip", "ascii", "hex", "bzip2", "True", "MET_DOUBLE", "MET_LONG_LONG", "double", "big"),
)
SUFFIXES = (".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".gipl")
Files = dict[str, bytes]
"""Contents by name; the first is the one to read."""


def seeds() -> list[Files]:
    """Whole files of every format, each of which is read."""
    raw = VOXELS.tobytes(order="F")
    found: list[Files] = []
    for kind, place, code in ((nib.Nifti1Image, 112, "<2f"), (nib.Nifti2Image, 176, "<2d")):
        scaled = bytearray(kind(VOXELS, AFFINE).to_bytes())
        struct.pack_into(code, scaled, place, 2.0, 1.0)
        found += [{"a.nii": bytes(scaled)}, {"a.nii.gz": bytes(scaled)}]
        big = kind(VOXELS, AFFINE, header=kind.header_class(endianness=">"), dtype=np.int16)
        found.append({"a.nii": big.to_bytes()})
    pair = nib.Nifti1Pair(VOXELS, AFFINE)
    pair.header.set_slope_inter(1, 0)
    found.append({"a.hdr": pair.header.binaryblock + bytes(4), "a.img": raw})
    analyze = nib.AnalyzeImage(VOXELS, AFFINE)
    found.append({"a.hdr": analyze.header.binaryblock, "a.img": raw})
    mgh = nib.MGHImage(VOXELS, AFFINE).to_bytes()
    found += [{"a.mgh": mgh}, {"a.mgz": mgh}]
    found += itk_seeds()
    text = " ".join(map(str, VOXELS.ravel(order="F"))).encode()
    for encoding, data in (
        *(("raw", raw), ("gzip", gzip.compress(raw)), ("bzip2", bz2.compress(raw))),
        *(("ascii", text), ("hex", raw.hex().encode())),
    ):
        head = nrrd_header(encoding)
        found += [{"a.nrrd": head + b"\n" + data}]
        found += [{"a.nhdr": head + b"data file: a.raw\n\n", "a.raw": data}]
    names = [f"s{k}.raw" for k in range(SHAPE[2])]
    parts = {name: VOXELS[..., k].tobytes(order="F") for k, name in enumerate(names)}
    listed = "\n".join(names).encode()
    found.append({"a.nhdr": nrrd_header("raw") + b"data file: LIST\n" + listed} | parts)
    meta = b"NDims = 3\nDimSize = 9 8 7\nElementType = MET_SHORT\nElementSpacing = 1 1.5 2\n"
    found.append({"a.mhd": meta + b"ElementDataFile = LIST\n" + listed} | parts)
    found.append({"a.mhd": meta + b"ElementDataFile = s%d.raw 0 6 1\n"} | parts)
    found.append({"a.mha": meta + b"BinaryData = False\nElementDataFile = LOCAL\n" + text})
    packed = b"CompressedData = True\nElementDataFile = LOCAL\n" + zlib.compress(raw)
    found.append({"a.mha": meta + packed})
    return found


def nrrd_header(encoding: str) -> bytes:
    return (
        "NRRD0004\n# a comment\ntype: short\ndimension: 3\nspace: left-posterior-superior\n"
        "sizes: 9 8 7\nspace directions: (1,0,0) (0,1.5,0) (0,0,2)\nkinds: domain domain domain\n"
        f"endian: little\nencoding: {encoding}\nspace origin: (1,2,3)\nfree:=text\n"
    ).encode()


def itk_seeds() -> list[Files]:
    image = sitk.GetImageFromArray(np.ascontiguousarray(VOXELS.T))
    image.SetSpacing((1.0, 1.5, 2.0))
    vector = sitk.Compose(image, image)
    found = []
    for source, suffix, packed in (
        *((image, ".mha", False), (image, ".mha", True), (image, ".mhd", True)),
        *((image, ".nrrd", True), (image, ".gipl", False), (vector, ".nrrd", False)),
        *((vector, ".mha", False), (image, ".nhdr", True)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            sitk.WriteImage(source, str(Path(folder) / f"a{suffix}"), useCompression=packed)
            files = sorted(Path(folder).iterdir(), key=lambda file: file.suffix != suffix)
            found.append({file.name: file.read_bytes() for file in files})
    found.append({"a.gipl.gz": found[4]["a.gipl"]})
    return found


SEEDS = seeds()


def mutant(number: int) -> Files:
    """One seed with one to six changes, always the same for a number."""
    chance = random.Random(number)
    files = dict(chance.choice(SEEDS))
    first = next(iter(files))
    victim = first if chance.random() < 0.85 else chance.choice(list(files))
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        files[victim] = changed(files[victim], chance)
    if first.endswith(("gz", ".mgz")):
        files[first] = gzip.compress(files[first], 1)
        if chance.random() < 0.3:
            files[first] = changed(files[first], chance)
    if chance.random() < 0.03:
        files = {f"a{chance.choice(SUFFIXES)}": files.pop(first)} | files
    if len(files) > 1 and chance.random() < 0.02:
        files.pop(list(files)[-1])
    return files


def changed(data: bytes, chance: random.Random) -> bytes:
    """One change: most in the first 600 bytes, where headers are."""
    if not data:
        return b"\0"
    content = bytearray(data)
    reach = min(len(content), 600 if chance.random() < 0.85 else len(content))
    place = chance.randrange(reach)
    way = chance.randrange(9)
    if way == 0:
        content[place] ^= 1 << chance.randrange(8)
    elif way == 1:
        content[place] = chance.choice((0, 1, 127, 128, 255, 10, 32, 45))
    elif way in (2, 3):
        code = chance.choice("hHiIqQ")
        size = struct.calcsize(code)
        value = chance.choice(NUMBERS) % (1 << 8 * size)
        order = chance.choice(("little", "big"))
        start = place // 2 * 2
        content[start : start + size] = value.to_bytes(size, order)
    elif way == 4:
        code = chance.choice("fd")
        value = chance.choice((np.nan, np.inf, -1.0, 0.0, 1e30, 1e-30, 352.5, -0.0))
        start = place // 4 * 4
        content[start : start + struct.calcsize(code)] = struct.pack(
            chance.choice("<>") + code, value
        )
    elif way == 5:
        del content[place : place + chance.choice((1, 4, 40, 4000))]
    elif way == 6:
        content[place:place] = content[place : place + chance.choice((1, 8, 80))] * chance.choice(
            (1, 3)
        )
    elif way == 7:
        del content[chance.randrange(len(content)) :]
    else:
        words = data[:reach].split(b" ")
        words[chance.randrange(len(words))] = chance.choice(WORDS).encode()
        content[:reach] = b" ".join(words)
    return bytes(content)


def read_batch(first: int, last: int, report: str) -> None:
    """Read mutants and write what became of them; called in a process of its own."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ROOM, mapped + ROOM))
    signal.signal(signal.SIGALRM, too_slow)
    warnings.simplefilter("error")
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told: dict[str, Any] = {"ends": Counter(), "harm": [], "slowest": (0.0, -1)}
    for number in range(first, last):
        Path(report).with_suffix(".now").write_text(str(number))
        begun = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
        try:
            told["ends"][read_one(number)] += 1
        except BaseException as error:
            told["harm"].append((number, f"{type(error).__name__}: {error}"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        told["slowest"] = max(told["slowest"], (time.perf_counter() - begun, number))
    told["grown_mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
    Path(report).write_text(json.dumps(told))


def read_one(number: int) -> str:
    files = mutant(number)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        for file, data in files.items():
            (Path(name) / file).write_bytes(data)
        path = Path(name) / next(iter(files))
        try:
            volume = read_image(path)
            labels = read_labels(path).labels if volume.array.shape[0] == 1 else None
        except DataError as error:
            message = str(error)
            assert name in message, message
            assert "\n" not in message, message
            assert len(message) < 600 + 3 * len(name), message
            return "refused"
    assert volume.array.shape[1:] == volume.grid.shape
    assert volume.array.dtype.isnative
    assert volume.array.dtype.kind in "iu" or np.isfinite(volume.array).all()
    assert 1e-4 <= min(volume.grid.spacing) <= max(volume.grid.spacing) <= 1e3
    assert labels is None or labels.dtype.kind == "u"
    return "read with a note" if volume.notes else "read"


def too_slow(*_: Any) -> None:
    raise TimeoutError(f"more than {MOST_SECONDS} s")


def test_every_seed_is_read(tmp_path: Path) -> None:
    for number, files in enumerate(SEEDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, data in files.items():
            is_packed = name == next(iter(files)) and name.endswith(("gz", ".mgz"))
            (folder / name).write_bytes(gzip.compress(data) if is_packed else data)
        volume = read_image(folder / next(iter(files)))
        wanted = volume.array[:1] / 2 - 0.5 if volume.array.dtype.kind == "f" else volume.array[:1]
        np.testing.assert_array_equal(wanted, VOXELS[None])


def test_mutants_are_volumes_or_data_errors(tmp_path: Path) -> None:
    """Prints how many were read and refused, the slowest, and how much memory was taken."""
    begun = time.perf_counter()
    ends = [NUM_MUTANTS * batch // NUM_PROCESSES for batch in range(NUM_PROCESSES + 1)]
    reports = [tmp_path / f"{batch}.json" for batch in range(NUM_PROCESSES)]
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(target=read_batch, args=(ends[batch], ends[batch + 1], str(report)))
        for batch, report in enumerate(reports)
    ]
    for worker in workers:
        worker.start()
    for worker, report in zip(workers, reports, strict=True):
        worker.join()
        assert worker.exitcode == 0, f"died reading {report.with_suffix('.now').read_text()}"
    told = [json.loads(report.read_text()) for report in reports]
    harm = [one for part in told for one in part["harm"]]
    total = sum((Counter(part["ends"]) for part in told), Counter())
    slowest, number = max(part["slowest"] for part in told)
    sys.stdout.write(
        f"\n{NUM_MUTANTS} mutants of {len(SEEDS)} files in {time.perf_counter() - begun:.0f} s: "
        f"{dict(total)}, {len(harm)} did harm; slowest {1000 * slowest:.0f} ms (number {number}), "
        f"memory grew by {max(part['grown_mb'] for part in told):.0f} MB of {ROOM >> 20} allowed"
    )
    assert not harm, harm[:20]
    assert min(total.values()) > NUM_MUTANTS / 50  # else nothing was tried
