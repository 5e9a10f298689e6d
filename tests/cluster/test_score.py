"""Score in parts and in workers: the same rows as in one go."""

import csv
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medseg3d
from medseg3d.errors import ConfigError, RunError
from medseg3d.scoring import read_table

LABELS = {1: "core", 2: "shell"}
NUM_CASES = 5


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and references that differ, case by case."""
    predictions, references = tmp_path / "p", tmp_path / "r"
    for folder, chance in ((predictions, 1), (references, 2)):
        folder.mkdir()
        for number in range(NUM_CASES):
            rng = np.random.default_rng(10 * chance + number)
            array = rng.integers(0, 3, (7, 6, 5)).astype(np.uint8)
            nib.save(nib.Nifti1Image(array, np.diag([1, 2, 1.5, 1])), folder / f"c{number}.nii")
    return predictions, references


def failed(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row["case"] for row in csv.DictReader(file)]


def test_tables_of_parts_are_the_table_in_pieces(
    folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = medseg3d.score(*folders, out=tmp_path / "whole.csv", labels=LABELS)
    caplog.set_level(logging.INFO, "medseg3d")
    parts = [
        medseg3d.score(*folders, out=tmp_path / "t.csv", labels=LABELS, shard=f"{index}/3")
        for index in (2, 1, 3)
    ]
    assert [part.csv.name for part in parts] == ["t-2of3.csv", "t-1of3.csv", "t-3of3.csv"]
    assert [f"part {part}/3: {n} of 5 cases" for part, n in ((2, 3), (1, 2), (3, 0))] == [
        message for message in caplog.messages if message.startswith("part ")
    ]
    rows = [row for part in parts for row in read_table(part.csv)]
    assert sorted(rows, key=lambda row: (row.case, row.label)) == read_table(whole.csv)
    assert all(part.json.is_file() and part.json.stem == part.csv.stem for part in parts)


def test_parts_keep_their_failures_apart(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for case in ("c0", "c1", "c2"):
        (folders[0] / f"{case}.nii").write_bytes(b"broken")
    tables = tmp_path / "tables"
    for index in (1, 2):
        with pytest.raises(RunError, match=rf"failures are in .*scores-{index}of3_failed\.csv$"):
            medseg3d.score(*folders, out=tables / "scores.csv", shard=f"{index}/3")
    assert failed(tables / "scores-1of3_failed.csv") == ["c0"]
    assert failed(tables / "scores-2of3_failed.csv") == ["c1", "c2"]
    assert not (tables / "scores_failed.csv").exists()


def test_a_task_without_cases_ends_well(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = {"ID": "7", "MIN": "0", "MAX": "7", "COUNT": "8"}
    for name, value in array.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    for cluster in (None, "local:2"):
        found = medseg3d.score(
            *folders, out=tmp_path / "t.csv", shard="slurm", cluster=cluster, overwrite=True
        )
        assert found.csv.name == "t-8of8.csv"
        assert len(found.csv.read_text().splitlines()) == 1
        assert found.json.is_file()


def test_workers_write_the_same_as_this_process(
    folders: tuple[Path, Path],
    tmp_path: Path,
    scheduler: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folders[0] / "c3.nii").write_bytes(b"broken")
    monkeypatch.chdir(tmp_path)  # the workers are in another folder
    for name, cluster in (("here", None), ("there", scheduler)):
        with pytest.raises(RunError, match=r"^1 of 5 cases could not be scored"):
            medseg3d.score("p", "r", out=Path(name, "scores.csv"), labels=LABELS, cluster=cluster)
    for name in ("scores.csv", "scores.json"):
        assert Path("here", name).read_bytes() == Path("there", name).read_bytes()
    assert failed(Path("there", "scores_failed.csv")) == ["c3"]
    assert len(read_table(Path("there", "scores.csv"))) == 4 * len(LABELS)


@pytest.mark.parametrize("options", [{"shard": "5/4"}, {"cluster": "local:none"}])
def test_what_cannot_be_understood_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, options: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(options))}: .*got '.*'$"):
        medseg3d.score(*folders, out=tmp_path / "t" / "scores.csv", **options)
    assert not (tmp_path / "t").exists()
