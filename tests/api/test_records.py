"""predictions.json: what counts as finished."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from medseg3d import __version__
from medseg3d.api.predicting.records import Record, Records, sizes, stamps
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


def test_options_of_samples_count_where_samples_are_drawn(tmp_path: Path, case: Case) -> None:
    labels, path = tmp_path / "a_seg.nii.gz", tmp_path / "predictions.json"

    def is_finished(**options: object) -> bool:
        return Records.open(path, {"m": "12"}, _config(**options)).is_finished(case, [labels])

    _finished(case, labels, Records.open(path, {"m": "12"}, _config(seed=3)))
    assert "samples" not in json.loads(path.read_text())["options"]  # as before there were any
    assert is_finished()
    assert not is_finished(samples=2)
    _finished(case, labels, Records.open(path, {"m": "12"}, _config(samples=2)))
    assert is_finished(samples=2)
    assert not is_finished(samples=2, seed=1)
    assert not is_finished(samples=3)
    assert not is_finished()


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


@pytest.mark.parametrize("name", ["predictions-1of2.json", "predictions.json"])
def test_a_case_that_another_part_did_is_finished(tmp_path: Path, case: Case, name: str) -> None:
    labels, part = tmp_path / "a_seg.nii.gz", tmp_path / name
    _finished(case, labels, Records.open(part, {"m": "12"}, _config()))
    for other in ("predictions-2of2.json", "predictions-3of12.json"):
        records = Records.open(tmp_path / other, {"m": "12"}, _config())
        assert records.is_finished(case, [labels])
        records.begin([])
        assert not records.path.exists()  # what others did is not on its record
    labels.write_bytes(b"cut")
    assert not Records.open(tmp_path / "predictions-2of2.json", {"m": "12"}, _config()).is_finished(
        case, [labels]
    )


def test_the_whole_takes_over_what_its_parts_did(tmp_path: Path, case: Case) -> None:
    labels, path = tmp_path / "a_seg.nii.gz", tmp_path / "predictions.json"
    _finished(
        case, labels, Records.open(tmp_path / "predictions-7of9.json", {"m": "12"}, _config())
    )
    records = Records.open(path, {"m": "12"}, _config())
    assert records.cases == {}
    assert records.is_finished(case, [labels])
    records.begin([])
    assert json.loads(path.read_text())["cases"][str(labels)]["backend"] == "eager"
    written = path.stat().st_mtime_ns
    again = Records.open(path, {"m": "12"}, _config())
    assert again.is_finished(case, [labels])
    again.begin([])
    assert path.stat().st_mtime_ns == written  # nothing is new


def test_the_part_that_fits_the_files_counts(tmp_path: Path, case: Case) -> None:
    labels, path = tmp_path / "a_seg.nii.gz", tmp_path / "predictions.json"
    _finished(case, labels, Records.open(path, {"m": "12"}, _config()))
    case.images[0].write_bytes(b"newer image")
    assert not Records.open(path, {"m": "12"}, _config()).is_finished(case, [labels])
    _finished(
        case, labels, Records.open(tmp_path / "predictions-1of1.json", {"m": "12"}, _config())
    )
    records = Records.open(path, {"m": "12"}, _config())
    assert records.is_finished(case, [labels])
    assert records.cases[str(labels)].inputs == stamps(case)


@pytest.mark.parametrize("change", ["model", "options", "name", "broken"])
def test_other_work_in_the_folder_does_not_count(
    tmp_path: Path, case: Case, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    labels = tmp_path / "a_seg.nii.gz"
    name = "my-predictions-1of2.json" if change == "name" else "predictions-1of2.json"
    options = _config(overlap=0.25) if change == "options" else _config()
    digest = "13" if change == "model" else "12"
    _finished(case, labels, Records.open(tmp_path / name, {"m": digest}, options))
    if change == "broken":
        (tmp_path / name).write_text("{")
    records = Records.open(tmp_path / "predictions.json", {"m": "12"}, _config())
    assert not records.is_finished(case, [labels])
    assert ("predictions-1of2.json cannot be read" in caplog.text) == (change == "broken")


def test_outputs_of_a_killed_part_may_be_replaced(tmp_path: Path) -> None:
    part = Records.open(tmp_path / "predictions-1of2.json", {"m": "12"}, _config())
    part.begin([tmp_path / "a_seg.nii.gz"])
    whole = Records.open(tmp_path / "predictions.json", {"m": "12"}, _config())
    whole.begin([tmp_path / "b_seg.nii.gz"])
    assert whole.ours == {str(tmp_path / f"{name}_seg.nii.gz") for name in "ab"}
    assert json.loads(whole.path.read_text())["planned"] == [str(tmp_path / "b_seg.nii.gz")]
    other = Records.open(tmp_path / "predictions.json", {"m": "13"}, _config())
    assert other.ours == set()


def test_what_is_made_anew_is_finished_by_nobody_before(tmp_path: Path, case: Case) -> None:
    labels = tmp_path / "a_seg.nii.gz"
    names = ("predictions.json", "predictions-1of2.json")
    for old, new in (names, reversed(names)):
        _finished(case, labels, Records.open(tmp_path / old, {"m": "12"}, _config()))
        Records.open(tmp_path / new, {"m": "12"}, _config()).begin([labels])  # and is killed
        for name in (*names, "predictions-3of4.json"):
            again = Records.open(tmp_path / name, {"m": "12"}, _config())
            assert not again.is_finished(case, [labels])
            assert again.ours == {str(labels)}
        assert not (tmp_path / old).exists(), "nothing is left on its record"


def test_two_processes_keep_the_records_of_both(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "out" / "predictions.json"
    one, other, idle = (Records.open(path, {"m": "12"}, _config()) for _ in range(3))
    labels = [tmp_path / "out" / f"{name}.nii.gz" for name in "abc"]
    for records, file in zip((one, other, idle), labels, strict=True):
        records.begin([file])
    assert json.loads(path.read_text())["planned"] == [str(file) for file in labels]
    _finished(case, labels[0], one)
    idle.end([labels[2]], is_whole=True)  # its case has failed
    assert json.loads(path.read_text())["planned"] == [str(labels[1])]
    one.end([labels[0]], is_whole=True)
    _finished(case, labels[1], other)
    other.end([labels[1]], is_whole=True)
    found = json.loads(path.read_text())
    assert (found["cases"].keys(), found["planned"]) == ({*map(str, labels[:2])}, [])
    assert sorted(file.name for file in path.parent.iterdir()) == [
        *("a.nii.gz", "b.nii.gz", "predictions.json")
    ]


def test_a_process_that_made_nothing_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "out" / "predictions.json"
    one, other = (Records.open(path, {"m": "12"}, _config()) for _ in range(2))
    one.begin([path.with_name("a.nii.gz")])
    other.begin([path.with_name("b.nii.gz")])
    one.end([path.with_name("a.nii.gz")], is_whole=True)
    assert path.is_file()
    other.end([path.with_name("b.nii.gz")], is_whole=True)
    assert not path.parent.exists()


def test_many_at_a_time_lose_nothing(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "predictions.json"

    def work(name: str) -> None:
        records = Records.open(path, {"m": "12"}, _config())
        labels = [tmp_path / f"{name}{number}.nii.gz" for number in range(8)]
        records.begin(labels)
        for file in labels:
            _finished(case, file, records)
        records.end(labels, is_whole=True)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, "abcd"))
    assert len(json.loads(path.read_text())["cases"]) == 4 * 8


def test_finished_cases_of_another_version_are_told_once(
    tmp_path: Path, case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    labels, path = tmp_path / "a_seg.nii.gz", tmp_path / "predictions.json"
    _finished(case, labels, Records.open(path, {"m": "12"}, _config()))
    Records.open(path, {"m": "12"}, _config())
    assert not caplog.messages
    path.write_text(path.read_text().replace(f'"medseg3d": "{__version__}"', '"medseg3d": "0.0.7"'))
    Records.open(path, {"m": "12"}, _config(overwrite=True))
    assert not caplog.messages
    assert Records.open(path, {"m": "12"}, _config()).is_finished(case, [labels])
    assert caplog.messages == [
        f"{tmp_path}: finished cases are of medseg3d 0.0.7 and this is {__version__}; give "
        "--overwrite to have them made anew"
    ]


def test_it_is_not_written_for_each_of_thousands(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, path = tmp_path / "a_seg.nii.gz", tmp_path / "predictions.json"
    records = Records.open(path, {"m": "12"}, _config())
    now = [0.0]
    monkeypatch.setattr("medseg3d.api.predicting.records.time.monotonic", lambda: now[0])
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
