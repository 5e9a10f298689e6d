"""What this process may use: memory, processors and disk, as its container allows."""

import ctypes
import os
import resource
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
USE = Path("/proc/self/statm")
STATUS = Path("/proc/self/status")
OF_ALL = Path("/proc/meminfo")
LIMITS = ("memory.max", "memory.limit_in_bytes")
QUOTA, OLD_QUOTA, OLD_PERIOD = "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"
NO_LIMIT = 1 << 60

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # as malloc.h numbers them
LARGEST_KEPT = 2**31 - 1
USUAL_MMAP_THRESHOLD = 32 << 20
"""What glibc comes to by itself once arrays of that size have been freed, in bytes."""
USUAL_MMAP_MAX = 65536

KEEPING: list[object] = []
"""Those who want freed memory kept at present."""

SHARE = 0.9
"""Part of the free memory that one process plans to take."""


def memory_limit() -> int:
    """Bytes that this process may ever hold: the machine's, its container's or its own limit."""
    return min(_shared_limit(), _own_limit())


def memory_room() -> int:
    """Bytes that this process may take beside those that it holds already, at least 0.

    Examples:
        >>> 0 <= memory_room() < memory_limit()
        True
    """
    mapped, held = _use()
    return max(0, min(_shared_limit() - held, _own_limit() - mapped, _free_of_all()))


def memory_in_reach() -> int:
    """Bytes that this process may hold in all at present, with a reserve for the others."""
    return _use()[1] + int(SHARE * memory_room())


def peak_memory() -> int:
    """Most bytes that this process has held in memory so far.

    Not what the system counts for a process, which begins with the peak of the one that
    started it.

    Examples:
        >>> peak_memory() > 1 << 20
        True
    """
    for line in _read(STATUS).splitlines():
        name, _, size = line.partition(":")
        if name == "VmHWM":
            return int(size.split()[0]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Take the memory of large arrays that were freed again, and give it back in the end.

    Otherwise glibc returns each large array to the system, which fills the next one with zeros,
    page by page: a third to nearly half of a training step on patches of 96^3 voxels. The peak is
    a sixth to a third higher, of a window in float32 up to three fifths, because what is kept is
    in pieces. Does nothing where there is no such allocator. One within another ends with the
    outer one.
    """
    tune, trim = (getattr(ctypes.CDLL(None), name, None) for name in ("mallopt", "malloc_trim"))
    if tune is None or trim is None:
        yield
        return
    tune(M_MMAP_MAX, 0)  # a higher M_MMAP_THRESHOLD is refused by older versions
    tune(M_TRIM_THRESHOLD, LARGEST_KEPT)
    token = object()
    KEEPING.append(token)
    try:
        yield
    finally:
        KEEPING.remove(token)
        if not KEEPING:
            tune(M_MMAP_MAX, USUAL_MMAP_MAX)
            tune(M_MMAP_THRESHOLD, USUAL_MMAP_THRESHOLD)
            tune(M_TRIM_THRESHOLD, 2 * USUAL_MMAP_THRESHOLD)
            trim(0)


def num_processors() -> int:
    """Processors that this process may run on at once, at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [_read(folder / QUOTA).split() for folder in _cgroups("")]
    quotas += [[_read(place / OLD_QUOTA), _read(place / OLD_PERIOD)] for place in _cgroups("cpu")]
    for parts in quotas:
        if len(parts) == 2 and parts[0].isdigit() and parts[1].isdigit() and int(parts[1]):
            count = min(count or 1, -(-int(parts[0]) // int(parts[1])))
    return max(1, count or 1)


def free_disk(folder: Path) -> int:
    """Bytes that can still be written at ``folder``, or where it would be made.

    Examples:
        >>> free_disk(Path("/")) >= 0
        True
    """
    return shutil.disk_usage(_nearest(folder)).free


class Shortage(NamedTuple):
    """A disk without room: the folders on it, and bytes needed and free as a person reads them."""

    folders: tuple[Path, ...]
    needed: str
    free: str


def disk_shortage(sizes: Iterable[tuple[Path, int]], *, reserve: int = 0) -> Shortage | None:
    """The first disk that does not hold what shall be written, None if all do.

    Args:
        sizes: Bytes by folder, which need not exist yet; those on one disk are added up.
        reserve: Bytes needed on each disk beside them.

    Examples:
        >>> disk_shortage([(Path("/"), 0)])
    """
    by_disk: dict[int, list[tuple[Path, int]]] = defaultdict(list)
    for folder, size in sizes:
        by_disk[_nearest(folder).stat().st_dev].append((folder, size))
    for wanted in by_disk.values():
        folders = tuple(folder for folder, _ in wanted)
        total, free = reserve + sum(size for _, size in wanted), free_disk(folders[0])
        if total > free:
            return Shortage(folders, in_words(total), in_words(free))
    return None


def in_words(size: float) -> str:
    """Bytes as a person reads them.

    Examples:
        >>> in_words(3 * 2**30), in_words(5_000_000), in_words(12)
        ('3.0 GiB', '4.8 MiB', '12 bytes')
    """
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f} {unit}"
    return f"{size:.0f} bytes"


def _nearest(folder: Path) -> Path:
    """The folder, or the one above it in which it would be made."""
    place = folder.absolute()
    while not place.is_dir():
        place = place.parent
    return place


def _shared_limit() -> int:
    """What the machine has, or less where a group of processes may hold less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in (*_cgroups(""), *_cgroups("memory")):
        limits += [int(text) for name in LIMITS if (text := _read(folder / name)).isdigit()]
    return min(limit for limit in limits if 0 < limit < NO_LIMIT)


def _free_of_all() -> int:
    """What all processes of the machine together leave free."""
    for line in _read(OF_ALL).splitlines():
        name, _, size = line.partition(":")
        if name == "MemAvailable":
            return int(size.split()[0]) << 10
    return NO_LIMIT


def _own_limit() -> int:
    own = resource.getrlimit(resource.RLIMIT_AS)[0]
    return NO_LIMIT if own == resource.RLIM_INFINITY else own


def _cgroups(controller: str) -> Iterator[Path]:
    """Folders of the groups that this process is in, from its own to the outermost.

    Args:
        controller: Empty for version 2, else the name of the controller of version 1.
    """
    root = CGROUP / controller
    for line in _read(OWN_CGROUP).splitlines():
        _, names, place = line.split(":", 2)
        if controller in names.split(","):
            inner = place.strip("/")
            while inner:
                yield root / inner
                inner = inner.rpartition("/")[0]
    yield root


def _use() -> tuple[int, int]:
    """Bytes that this process has mapped, and those that it holds in memory."""
    fields = _read(USE).split()
    page = os.sysconf("SC_PAGE_SIZE")
    return (int(fields[0]) * page, int(fields[1]) * page) if len(fields) > 1 else (0, 0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
