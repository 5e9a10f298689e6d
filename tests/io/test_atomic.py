"""Atomic writing: the whole file or none, and nothing left behind."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from medseg3d.errors import RunError
from medseg3d.geometry.grid import Grid
from medseg3d.io import Volume, atomic, write_labels
from medseg3d.io.atomic import half_made, sweep, write_csv, write_text

LIKE = Volume.from_array(np.zeros((1, 3, 4, 5)), Grid((3, 4, 5), np.eye(4)))
LABELS = np.ones((3, 4, 5), np.uint8)


@pytest.mark.parametrize(
    "name", ["a.nii.gz", "A.NII.GZ", "a.b.csv", "plain", "n" * 248 + ".nii.gz"]
)
def test_file_appears_under_its_name_only(tmp_path: Path, name: str) -> None:
    with atomic(tmp_path / name) as beside:
        assert beside.parent == tmp_path
        assert beside.suffix == Path(name).suffix
        beside.write_text("new")
        assert not (tmp_path / name).exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "new"


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, problem: type[BaseException]
) -> None:
    (tmp_path / "a.csv").write_text("old")

    def write_half() -> None:
        with atomic(tmp_path / "a.csv") as beside:
            beside.write_text("half")
            raise problem

    with pytest.raises(problem):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "old"


def test_missing_folders_are_made(tmp_path: Path) -> None:
    with atomic(tmp_path / "new" / "deep" / "a.txt") as beside:
        beside.write_text("x")
    assert (tmp_path / "new" / "deep" / "a.txt").read_text() == "x"


def test_a_link_is_replaced_and_its_target_untouched(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to("real.txt")
    with atomic(tmp_path / "a.txt") as beside:
        beside.write_text("new")
    assert (tmp_path / "real.txt").read_text() == "old"
    assert not (tmp_path / "a.txt").is_symlink()


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission is denied"),
    ],
)
def test_a_target_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, number: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(RunError, match=rf"out\.nii\.gz cannot be written: .*{reason}"):
        write_labels(tmp_path / "out.nii.gz", LABELS, like=LIKE)
    assert list(tmp_path.iterdir()) == []


def test_folders_and_files_in_the_way_are_named(tmp_path: Path) -> None:
    (tmp_path / "out.nii.gz").mkdir()
    with pytest.raises(RunError, match="a folder of that name is in the way"):
        write_labels(tmp_path / "out.nii.gz", LABELS, like=LIKE)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="not a folder"):
        write_labels(tmp_path / "file" / "deep" / "out.nii.gz", LABELS, like=LIKE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out.nii.gz"]


def test_too_long_a_name_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="name is too long"):
        write_labels(tmp_path / ("n" * 250 + ".nii.gz"), LABELS, like=LIKE)
    assert list(tmp_path.iterdir()) == []


def test_both_files_are_flushed_and_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    write_labels(tmp_path / "out.nii.gz", LABELS, like=LIKE)
    assert len(flushed) == 2


def left_by(process: str, folder: Path) -> Path:
    """Write ``folder/a.nii.gz`` in another process that ends, or stays, in the middle."""
    code = (
        "import os, sys, time\nfrom medseg3d.io.atomic import atomic\n"
        "with atomic(sys.argv[1]) as beside:\n"
        "    beside.write_bytes(b'half')\n"
        f"    print(beside, flush=True)\n    {process}\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "a.nii.gz")], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        left = Path(running.stdout.readline().strip())
        if "sleep" in process:
            assert sweep(folder) == [], "somebody is still writing"
            running.kill()
    return left


@pytest.mark.parametrize("process", ["os._exit(0)", "time.sleep(60)"])
def test_what_killed_processes_left_is_swept(tmp_path: Path, process: str) -> None:
    left = left_by(process, tmp_path)
    (tmp_path / ".medseg3d-mine-part").write_text("x")
    assert sweep(tmp_path) == [left]
    assert [path.name for path in tmp_path.iterdir()] == [".medseg3d-mine-part"]


def test_what_another_machine_left_is_swept_after_a_day(tmp_path: Path) -> None:
    left = tmp_path / ".medseg3d-0123abcd-1-0123456789ab-part.nii.gz"
    left.write_text("half")
    assert sweep(tmp_path) == []
    yesterday = time.time() - 86_500
    os.utime(left, (yesterday, yesterday))
    assert sweep(tmp_path) == [left]
    assert sweep(tmp_path / "absent") == []


def test_folders_of_killed_processes_go_and_what_they_set_aside_comes_back(tmp_path: Path) -> None:
    for name in ("old", "replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "page").write_text(name)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from medseg3d.io.atomic import half_made, set_aside\n"
        "for name in sys.argv[1:]:\n"
        "    place = Path(name)\n"
        "    (half_made(place) / 'cases').mkdir(parents=True)\n"
        "    place.rename(set_aside(place))\n"
    )
    places = [str(tmp_path / name) for name in ("old", "replaced")]
    subprocess.run([sys.executable, "-c", code, *places], check=True)
    (tmp_path / "replaced").mkdir()
    (tmp_path / "replaced" / "page").write_text("new")
    mine = half_made(tmp_path / "mine")
    mine.mkdir()
    assert len(sweep(tmp_path)) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [mine.name, "old", "replaced"]
    assert (tmp_path / "old" / "page").read_text() == "old"
    assert (tmp_path / "replaced" / "page").read_text() == "new"


def test_a_folder_that_another_machine_writes_into_today_stays(tmp_path: Path) -> None:
    making = tmp_path / ".medseg3d-0123abcd-1-0123456789ab-part"
    (making / "cases").mkdir(parents=True)
    (making / "cases" / "0001.js").write_text("new")
    yesterday = time.time() - 86_500
    for folder in (making / "cases", making):
        os.utime(folder, (yesterday, yesterday))
    assert sweep(tmp_path) == []
    os.utime(making / "cases" / "0001.js", (yesterday, yesterday))
    assert sweep(tmp_path) == [making]


def test_bytes_of_names_that_are_no_utf8_are_spelled_out_in_texts_and_kept_in_tables(
    tmp_path: Path,
) -> None:
    name = os.fsdecode(b"p\xe9 \xc3\xa4")
    write_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.txt").read_bytes() == b"p\\udce9 \xc3\xa4"
    write_csv(tmp_path / "a.csv", ["case", "dice"], [[name, 0.5], ['a, "b"', None]])
    assert (tmp_path / "a.csv").read_bytes() == (b'case,dice\np\xe9 \xc3\xa4,0.5\n"a, ""b""",\n')


def test_a_writer_with_other_words_for_a_full_disk_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(atomic.__wrapped__.__globals__, "free_disk", lambda _: 0)  # type: ignore[attr-defined]

    def torn() -> None:
        with atomic(tmp_path / "a.nrrd") as beside:
            beside.write_text("half of it")
            raise RuntimeError("file stream is fail after write")

    with pytest.raises(RunError, match="the disk is full"):
        torn()
    assert list(tmp_path.iterdir()) == []
