"""The folder of a review: whole or not at all, and nothing else is ever replaced."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medseg3d.errors import RunError
from medseg3d.io.atomic import sweep
from medseg3d.review.folder import (
    expect_free,
    new_folder,
    write_assets,
    write_case,
    write_list,
    write_picture,
)

NASTY = "</script><img src=x onerror=alert(1)> \u2028 'ä'"


def fill(folder: Path, text: str = "new") -> None:
    """The least that makes a review."""
    (folder / "index.html").write_text(text)
    (folder / "cases.js").write_text(text)


def interrupted(out: Path, error: type[BaseException] | BaseException) -> None:
    with new_folder(out) as folder:
        fill(folder)
        raise error


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_new_folder_appears_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "review"
    with new_folder(out) as folder:
        fill(folder)
        assert not out.exists()
    assert contents(out) == {"index.html": "new", "cases.js": "new"}
    assert [path.name for path in out.parent.iterdir()] == ["review"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RunError("full"), ValueError])
def test_after_an_error_everything_is_as_it_was(
    tmp_path: Path, error: type[BaseException] | BaseException
) -> None:
    out = tmp_path / "review"
    out.mkdir()
    fill(out, "old")
    with pytest.raises((KeyboardInterrupt, RunError, ValueError)):
        interrupted(out, error)
    assert contents(tmp_path) == {"review/index.html": "old", "review/cases.js": "old"}


def test_an_old_review_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "review"
    (out / "cases").mkdir(parents=True)
    fill(out, "old")
    (out / "cases" / "0007.js").write_text("old")
    with new_folder(out) as folder:
        fill(folder)
    assert contents(tmp_path) == {"review/index.html": "new", "review/cases.js": "new"}


def test_what_else_lies_in_the_folder_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "review"
    (out / "notes").mkdir(parents=True)
    fill(out, "old")
    (out / "review.csv").write_text("verdicts")
    (out / "notes" / "1.txt").write_text("note")
    with new_folder(out) as folder:
        fill(folder)
    assert contents(tmp_path) == {
        "review/index.html": "new",
        "review/cases.js": "new",
        "review/review.csv": "verdicts",
        "review/notes/1.txt": "note",
    }


def test_an_old_review_comes_back_when_the_last_step_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "review"
    out.mkdir()
    fill(out, "old")
    (out / "review.csv").write_text("verdicts")
    before = contents(tmp_path)
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name.endswith("-part"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with (
        pytest.raises(RunError, match="review cannot be written: the disk reports an error"),
        new_folder(out) as folder,
    ):
        fill(folder)
    assert contents(tmp_path) == before


def test_after_a_kill_the_old_review_comes_back_and_nothing_stays_hidden(tmp_path: Path) -> None:
    out = tmp_path / "review"
    (out / "notes").mkdir(parents=True)
    fill(out, "old")
    (out / "review.csv").write_text("verdicts")
    (out / "notes" / "1.txt").write_text("note")
    before = contents(tmp_path)
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from medseg3d.review.folder import new_folder\n"
        "rename = Path.rename\n"
        "def killed(self, target):\n"
        "    if self.name.endswith('-part'):\n"
        "        os._exit(9)\n"
        "    return rename(self, target)\n"
        "Path.rename = killed\n"
        "with new_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'index.html').write_text('new')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(out)], check=False).returncode == 9
    assert not out.exists()
    sweep(tmp_path)
    assert contents(tmp_path) == before


def test_too_long_a_name_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the name is too long"), new_folder(tmp_path / ("n" * 240)):
        pytest.fail("the work was begun")
    assert list(tmp_path.iterdir()) == []


def test_where_a_disk_is_mounted_no_review_can_appear(tmp_path: Path) -> None:
    (tmp_path / "mounted").symlink_to("/")
    for place in (Path("/"), tmp_path / "mounted"):
        with pytest.raises(
            RunError, match=r"a disk is mounted.*; name a folder inside it: -o .*/review$"
        ):
            expect_free(place, overwrite=True)


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    out = tmp_path / "review"
    out.symlink_to(tmp_path / "real")
    with new_folder(out) as folder:
        fill(folder)
    assert out.is_symlink()
    assert contents(tmp_path / "real") == {"index.html": "new", "cases.js": "new"}


def test_only_a_review_may_be_replaced(tmp_path: Path) -> None:
    out = tmp_path / "review"
    expect_free(out, overwrite=False)
    out.mkdir()
    expect_free(out, overwrite=False)
    (out / "thesis.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(RunError, match="holds something else than a review"):
            expect_free(out, overwrite=overwrite)
    fill(out)
    with pytest.raises(RunError, match="exists already; give --overwrite"):
        expect_free(out, overwrite=False)
    expect_free(out, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file is no folder"):
        expect_free(tmp_path / "file", overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="permission is denied"), new_folder(tmp_path / "r"):
        pass


def test_scripts_are_calls_with_json_in_ascii(tmp_path: Path) -> None:
    write_case(tmp_path, "cases/0001.js", {"id": NASTY, "window": [1.5, 2]})
    write_list(tmp_path, {"title": NASTY, "none": None})
    write_picture(tmp_path, "thumbnails/0001.png", b"png")
    case = (tmp_path / "cases" / "0001.js").read_bytes().decode("ascii")
    told = case.removeprefix("window.REVIEW_CASE(").removesuffix(");\n")
    assert json.loads(told) == {"id": NASTY, "window": [1.5, 2]}
    listed = (tmp_path / "cases.js").read_bytes().decode("ascii")
    told = listed.removeprefix("window.REVIEW = ").removesuffix(";\n")
    assert json.loads(told) == {"title": NASTY, "none": None}
    assert (tmp_path / "thumbnails" / "0001.png").read_bytes() == b"png"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_list(tmp_path, {"nan": float("nan")})


def test_bytes_of_names_that_are_no_utf8_are_spelled_out(tmp_path: Path) -> None:
    name = os.fsdecode(b"p\xe9")
    write_case(tmp_path, "1.js", {"id": name, "shape": [1, 2, 3], "reference": None})
    told = (tmp_path / "1.js").read_text().removeprefix("window.REVIEW_CASE(").rstrip(");\n")
    assert json.loads(told) == {"id": "p\\udce9", "shape": [1, 2, 3], "reference": None}
    write_list(tmp_path, {"cases": [{"id": name, "patient": name, "mean": {name: 0.5}}]})
    told = (tmp_path / "cases.js").read_text().removeprefix("window.REVIEW = ").rstrip(";\n")
    [case] = json.loads(told)["cases"]
    assert case == {"id": "p\\udce9", "patient": "p\\udce9", "mean": {"p\\udce9": 0.5}}


def test_the_page_brings_all_that_it_loads(tmp_path: Path) -> None:
    write_assets(tmp_path)
    assert (tmp_path / "index.html").is_file()
    assert not (tmp_path / "assets" / "index.html").exists()
    assert "BSD" in (tmp_path / "assets" / "LICENSE-niivue.txt").read_text(encoding="utf-8")
    assert (tmp_path / "assets" / "niivue.umd.js").stat().st_size > 1_000_000
