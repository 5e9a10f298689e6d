"""What this process may use: memory, processors and disk, as its container allows."""

import os
import resource
import shutil
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
QUOTAS = "cpu.max"
NO_LIMIT = 1 << 60


def memory_limit() -> int:
    """Bytes that this process may ever hold: the machine's, its container's or its own limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [int(text) for name in LIMITS if (text := _read(CGROUP / name)).isdigit()]
    own = resource.getrlimit(resource.RLIMIT_AS)[0]
    if own != resource.RLIM_INFINITY:
        limits.append(own)
    return min(limit for limit in limits if 0 < limit < NO_LIMIT)


def num_processors() -> int:
    """Processors that this process may run on at once, at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota, _, period = _read(CGROUP / QUOTAS).partition(" ")
    if quota.isdigit() and period.isdigit():
        count = min(count or 1, -(-int(quota) // int(period)))
    return max(1, count or 1)


def free_disk(folder: Path) -> int:
    """Bytes that can still be written at ``folder``, or where it would be made.

    Examples:
        >>> free_disk(Path("/")) >= 0
        True
    """
    place = folder.absolute()
    while not place.is_dir():
        place = place.parent
    return shutil.disk_usage(place).free


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


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
