"""predictions.json: what counts as finished."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from medseg3d.api.records import Record, Records, sizes, stamps
from medseg3d.config import PredictConfig, validated
from medseg3d.data.cases import Case, find_inputs


@pytest.fixture
def case(tmp_path: Path) -> Case:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.nii.gz").write_bytes(b"image")
    (found,) = find_inputs([folder / "a.nii.gz"])
    return found


def _config(**options: object) -> PredictConfig:
    return validated(PredictConfig, {"inputs": ["a"]} | options)


def _finished(case: Case, labels: Path, records: Records) -> None:
    labels.write_bytes(b"labels")
    record = Record(
        case=case.id,
        inputs=stamps(case),
        outputs=sizes([labels]),
        seconds={"total": 1.0},
        volumes_ml={"liver": 2.5},
        windows=3,
        skipped=1,
        peak_memory_bytes=5,
        backend="eager",
        precision="fp32",
        notes=("odd",),
    )
    records.add(record)
    records.save()


def test_a_finished_case_is_known_again(tmp_path: Path, case: Case) -> None:
    labels, path = tmp_path / "a_seg.nii.gz", tmp_path / "predictions.json"
    records = Records.open(path, {"m": "12"}, _config())
    assert not records.is_finished(case, [labels])
    _finished(case, labels, records)
    again = Records.open(path, {"elsewhere/m": "12"}, _config(threads=3))
    assert again.cases == records.cases
    assert again.is_finished(case, [labels])
    content = json.loads(path.read_text())
    assert content["cases"][str(labels)]["volumes_ml"] == {"liver": 2.5}


@pytest.mark.parametrize("change", ["model", "options", "image", "labels", "gone", "more"])
def test_whatever_changed_makes_it_unfinished(tmp_path: Path, case: Case, change: str) -> None:
    labels, path = tmp_path / "a_seg.nii.gz", tmp_path / "predictions.json"
    _finished(case, labels, Records.open(path, {"m": "12"}, _config()))
    options = _config(overlap=0.25) if change == "options" else _config()
    files = [labels]
    if change == "image":
        os.utime(case.images[0], ns=(0, 0))
    elif change == "labels":
        labels.write_bytes(b"cut")
    elif change == "gone":
        labels.unlink()
    elif change == "more":
        files.append(tmp_path / "a_probabilities.nii.gz")
    digest = "13" if change == "model" else "12"
    again = Records.open(path, {"m": digest}, options)
    assert not again.is_finished(case, files)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"models": {"m": "12"}', '{"models": 3}'])
def test_a_broken_file_only_forgets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(text)
    assert Records.open(path, {"m": "12"}, _config()).cases == {}
    assert "no case in it counts as finished" in caplog.text


def test_it_is_not_written_for_each_of_thousands(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, path = tmp_path / "a_seg.nii.gz", tmp_path / "predictions.json"
    records = Records.open(path, {"m": "12"}, _config())
    now = [0.0]
    monkeypatch.setattr("medseg3d.api.records.time.monotonic", lambda: now[0])
    saved: list[float] = []
    plain = Records.save

    def save(self: Records) -> None:
        saved.append(now[0])
        plain(self)
        now[0] += 0  # the clock moves below

    monkeypatch.setattr(Records, "save", save)
    _finished(case, labels, records)
    first = next(iter(records.cases.values()))
    records._next = 10.0
    for number in range(5):
        now[0] = 3.0 * number
        records.add(replace(first, outputs={f"{number}": 1}))
    assert [time for time in saved if time] == [12.0]
    assert len(records.cases) == 6
