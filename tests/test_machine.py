"""Limits of machine, container and process: the tightest counts."""

import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from medseg3d import machine

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes into a made-up /sys/fs/cgroup, or names the groups of this process."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "OWN_CGROUP", tmp_path / "own")

    def put(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    return put


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_container_limits_memory(write: Write, name: str) -> None:
    whole = machine.memory_limit()
    write(name, "1000000\n")
    assert machine.memory_limit() == 1000000
    write(name, "max\n")
    assert machine.memory_limit() == whole


@pytest.mark.parametrize(
    ("own", "limit"),
    [
        ("0::/slurm/job_7/step_0\n", "slurm/job_7/memory.max"),
        ("0::/a\n5:cpu,memory:/slurm/job_7\n", "memory/slurm/job_7/memory.limit_in_bytes"),
    ],
)
def test_an_outer_group_limits_the_inner(write: Write, own: str, limit: str) -> None:
    write("own", own)
    write("memory.max", "9000000000")
    write(limit, "5000000")
    assert machine.memory_limit() == 5000000


def test_room_is_what_is_not_held_yet(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    page = resource.getpagesize()
    write("statm", "900 100 5")
    monkeypatch.setattr(machine, "USE", machine.CGROUP / "statm")
    write("memory.max", str(1000 * page))
    assert machine.memory_room() == 900 * page
    write("memory.max", str(10 * page))
    assert machine.memory_room() == 0


def test_the_own_limit_counts_what_is_mapped() -> None:
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from medseg3d.machine import memory_limit, memory_room\n"
        "assert memory_limit() <= 1 << 30\n"
        "assert (1 << 28) < memory_room() < (1 << 30) - (1 << 20)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "50000 100000"}, 1),
        ({"own": "0::/a/b", "a/cpu.max": "300000 100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_processors_are_those_of_the_container(
    write: Write, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], count: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    for name, text in files.items():
        write(name, text)
    assert machine.num_processors() == count


def test_disk_is_that_of_the_nearest_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=7)

    monkeypatch.setattr("shutil.disk_usage", usage)
    assert machine.free_disk(tmp_path / "not" / "there") == 7
    assert asked == [tmp_path]


def test_room_is_added_up_per_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_disk", lambda _: 10 * 2**20)
    first, second = tmp_path / "a", tmp_path / "not" / "there"
    sizes = [(first, 5 * 2**20), (second, 5 * 2**20)]
    assert machine.disk_shortage(sizes) is None
    short = machine.disk_shortage(sizes, reserve=2**20)
    assert short == ((first, second), "11.0 MiB", "10.0 MiB")


def test_the_peak_is_of_this_process_and_not_of_the_one_that_started_it() -> None:
    ballast = bytearray(b"x") * (256 << 20)
    code = "from medseg3d.machine import peak_memory; print(peak_memory())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 << 20 < int(ended.stdout) < len(ballast) <= machine.peak_memory()


def test_where_no_file_tells_the_peak_the_system_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "STATUS", tmp_path / "absent")
    assert machine.peak_memory() > 1 << 20


FREED = """
import resource
import numpy as np
from medseg3d.machine import freed_memory_kept, _use

def pages_of(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        np.ones(8 << 20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

many = pages_of(10)
with freed_memory_kept():
    with freed_memory_kept():
        pages_of(1)
    few = pages_of(10)
    held = _use()[1]
print(few * 20 < many, held - _use()[1] > 50 << 20, pages_of(10) * 20 > many)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_freed_memory_is_taken_again_and_given_back_in_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
