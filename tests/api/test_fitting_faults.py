"""Fit that is stopped, short of room or sabotaged: one sentence, nothing torn, exact resume."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import medseg3d
from medseg3d.api.fitting import final_validation, planning, preparing, validating
from medseg3d.api.fitting import run as fitting
from medseg3d.api.scoring import run as scoring
from medseg3d.bundle import load_bundle, read_bundle
from medseg3d.data.cache import CachedCase, content_digest
from medseg3d.data.plan import Plan
from medseg3d.errors import ConfigError, MedSeg3DError, RunError
from medseg3d.training.checkpoint import LAST

HOMES = (fitting, planning, preparing, validating, final_validation, scoring)
SHAPE = (14, 12, 10)
SMALL: dict[str, Any] = {
    "epochs": 3,
    "steps_per_epoch": 3,
    "folds": 2,
    "batch_size": 1,
    "patch_size": (8, 8, 8),
    "width": 4,
    "precision": "fp32",
    "device": "cpu",
    "checkpoint_minutes": 0,
    "validate_every": 1,
}


def write_case(folder: Path, number: int, value: int = 7) -> None:
    rng = np.random.default_rng(number)
    image, labels = rng.normal(100, 5, SHAPE), np.zeros(SHAPE, dtype=np.uint8)
    i, j, k = rng.integers(1, 4, 3)
    labels[i : i + 8, j : j + 7, k : k + 5] = value
    image += 100 * (labels > 0)
    for name, array in (("images", image.astype(np.int16)), ("labels", labels)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        volume = nib.Nifti1Image(array, np.eye(4))
        volume.header.set_xyzt_units("mm")
        nib.save(volume, folder / name / f"box_{number}.nii.gz")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    for number in range(4):
        write_case(folder, number)
    return folder


@pytest.fixture(scope="module")
def whole(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> medseg3d.Run:
    folder = tmp_path_factory.mktemp("whole")
    return medseg3d.fit(cases, out=folder / "run", cache=folder / "cache", **SMALL)


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    return {"out": tmp_path / "run", "cache": tmp_path / "cache"}


def assert_same_model(run: medseg3d.Run, whole: medseg3d.Run) -> None:
    for name in ("model.medseg3d", "checkpoints/best.medseg3d"):
        first, second = load_bundle(run.folder / name)[1], load_bundle(whole.folder / name)[1]
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[key], second[key]) for key in first)
    assert run.dice == whole.dice


@contextmanager
def struck(place: str, at: int, act: Callable[[], object]) -> Iterator[None]:
    """Do something at the so-many-th call of a function that fit uses."""
    calls = 0
    home = next(module for module in HOMES if hasattr(module, place))
    plain = getattr(home, place)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            act()
        return plain(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, place, wrapped)
        yield


def interrupt() -> None:
    """Ctrl-C, noticed by the main thread while it waits for this one."""
    os.kill(os.getpid(), signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        time.sleep(0.2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # open files
@pytest.mark.parametrize(
    ("place", "at"),
    [
        ("check_cases", 1),
        ("measure", 2),
        ("_plan", 1),
        ("preprocess", 3),
        ("predict_labels", 3),
        ("save_bundle", 1),
        ("write_labels", 2),
        ("write_scores", 1),
    ],
)
def test_ctrl_c_anywhere_and_resume_give_the_same_model(
    cases: Path, whole: medseg3d.Run, places: dict[str, Path], place: str, at: int
) -> None:
    with struck(place, at, interrupt), pytest.raises(KeyboardInterrupt):
        medseg3d.fit(cases, **places, **SMALL)
    resumed = medseg3d.fit(cases, resume=True, **places)
    assert_same_model(resumed, whole)
    assert (resumed.folder / "history.csv").read_text().count("\n") == 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_scoring_goes_on_where_it_was_stopped(
    cases: Path, whole: medseg3d.Run, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with struck("write_scores", 1, interrupt), pytest.raises(KeyboardInterrupt):
        medseg3d.fit(cases, **places, **SMALL)

    def refuse(*_: object) -> None:
        raise AssertionError("predicted again")

    monkeypatch.setattr("medseg3d.inference.predictor.Predictor.segment", refuse)
    assert_same_model(medseg3d.fit(cases, resume=True, **places), whole)


@pytest.mark.parametrize(("place", "at"), [("write_labels", 2), ("write_json", 1)])
def test_resume_completes_a_run_whose_validation_failed(
    cases: Path, whole: medseg3d.Run, places: dict[str, Path], place: str, at: int
) -> None:
    def fail() -> None:
        raise RunError("the disk is full")

    with struck(place, at, fail), pytest.raises(RunError, match="the disk is full"):
        medseg3d.fit(cases, **places, **SMALL)
    failed = read_bundle(places["out"] / "model.medseg3d")
    assert "steps" not in failed.training
    resumed = medseg3d.fit(cases, resume=True, **places)
    assert_same_model(resumed, whole)
    assert read_bundle(resumed.bundle).scores == read_bundle(whole.bundle).scores
    assert read_bundle(resumed.bundle).training["steps"] == 9
    assert resumed.scores.csv.read_bytes() == whole.scores.csv.read_bytes()
    with pytest.raises(RunError, match=r"is finished: it holds .* and the scores"):
        medseg3d.fit(cases, resume=True, **places)


def test_stopping_says_how_to_go_on(
    cases: Path, places: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with struck("check_cases", 1, interrupt), pytest.raises(KeyboardInterrupt):
        medseg3d.fit(cases, **places, **SMALL)
    assert f"go on with: medseg3d fit {cases} -o {places['out']} --resume" in caplog.text
    with pytest.raises(RunError, match=r"is already in use; .* --resume"):
        medseg3d.fit(cases, **places, **SMALL)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, to be enlarged with :func:`enlarge`."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "medseg3d-test", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def enlarge(disk: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(disk)], check=True)


def readable(folder: Path) -> list[str]:
    """Names of all files, each read to its end."""
    for path in folder.rglob("*.medseg3d"):
        load_bundle(path)
    for path in folder.rglob("*.nii.gz"):
        np.asarray(nib.load(path).dataobj)
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_disk_that_fills_up_leaves_nothing_torn_and_resume_goes_on(
    cases: Path, whole: medseg3d.Run, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "disk_shortage", lambda _: None)  # it fills up after the look
    places = {"out": small_disk / "run", "cache": small_disk / "cache"}
    failed = 0
    for kilobytes in (*range(12, 700, 36), 4000):
        enlarge(small_disk, kilobytes)
        options = {"resume": True} if (places["out"] / "config.yaml").is_file() else SMALL
        try:
            run = medseg3d.fit(cases, **places, **options)
        except RunError as error:
            told = str(error)
        else:
            break
        failed += 1
        assert "cannot be written: the disk is full; free some space" in told
        assert not [name for name in readable(small_disk) if name.startswith(".medseg3d")]
    assert failed > 5
    assert_same_model(run, whole)


@pytest.mark.parametrize("place", ["cache", "out"])
def test_folders_that_cannot_be_written_are_refused_before_the_work(
    cases: Path, places: dict[str, Path], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places[place].parent.joinpath("file").touch()
    places[place] = places[place].parent / "file" / "below"
    monkeypatch.setattr(planning, "check_cases", None)
    with pytest.raises(RunError, match="cannot be written"):
        medseg3d.fit(cases, **places, **SMALL)


def test_too_little_room_is_told_before_preprocessing(
    cases: Path, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg3d.machine.free_disk", lambda _: 1000)
    monkeypatch.setattr(preparing, "preprocess", None)
    with pytest.raises(RunError, match=r"has 1000 bytes free, but about .* KiB are needed; free"):
        medseg3d.fit(cases, **places, **SMALL)
    assert not places["cache"].exists()


def test_a_refused_fit_leaves_no_empty_folders(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        medseg3d.fit(cases, plan=here / "none.yaml", **SMALL)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "wnet", "loss": "dise"}, "'wnet' learns by a loss of its own, so dise would"),
        (
            {"network": "wnet_density", "loss": "focal", "width": None},
            "so focal would have no effect; leave out",
        ),
        ({"network": "hierarchical_probabilistic_unet", "loss": "focal"}, "so focal would have"),
        (
            {"loss": {"name": "cross_entropy", "options": {"weight": [1, 2, 3, 4, 5]}}},
            "weight has 5 values",
        ),
    ],
)
def test_a_refused_loss_leaves_no_run(
    cases: Path, places: dict[str, Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        medseg3d.fit(cases, **places, **SMALL | options)
    assert not places["out"].exists()


def test_a_killed_preprocessing_leaves_nothing_in_the_cache(
    cases: Path, places: dict[str, Path], whole: medseg3d.Run
) -> None:
    left = places["cache"] / ".medseg3d-0123-part"
    left.mkdir(parents=True)
    (left / "image.b2nd").touch()
    assert_same_model(medseg3d.fit(cases, **places, **SMALL), whole)
    for folder in places["cache"].iterdir():
        CachedCase.open(folder).image()


def test_two_fits_share_a_cache(cases: Path, whole: medseg3d.Run, tmp_path: Path) -> None:
    results: list[medseg3d.Run] = []

    def fit(name: str) -> None:
        options = SMALL | {"out": tmp_path / name, "cache": tmp_path / "cache"}
        results.append(medseg3d.fit(cases, **options))

    threads = [threading.Thread(target=fit, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_the_bundle_tells_the_cases_by_their_files(cases: Path, whole: medseg3d.Run) -> None:
    found = read_bundle(whole.bundle).cases
    assert set(found) == {
        f"{part}_000{number}" for part in ("training", "held_out") for number in (1, 2)
    }, "ids may be personal"
    files = [cases / kind / "box_2.nii.gz" for kind in ("images", "labels")]
    assert content_digest(files) in found.values()


def test_a_file_that_changes_meanwhile_does_not_enter_the_cache(
    places: dict[str, Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for number in range(4):
        write_case(data, number)

    def brighten() -> None:
        for path in (data / "images").iterdir():
            volume = nib.load(path)
            brighter = np.asarray(volume.dataobj) + 1
            nib.save(nib.Nifti1Image(brighter, volume.affine, volume.header), data / "new.nii.gz")
            (data / "new.nii.gz").replace(path)

    told = r"case box_\d: its files have changed since this fit began; start a new run"
    with struck("preprocess", 1, brighten), pytest.raises(RunError, match=told):
        medseg3d.fit(data, **places, **SMALL)
    assert len(list(places["cache"].glob("*"))) < 4


def test_too_little_memory_names_the_case(cases: Path, places: dict[str, Path]) -> None:
    def run_out() -> None:
        raise MemoryError("Unable to allocate 9 TiB")

    told = r"memory ran out while preprocessing case box_\d \(Unable to allocate 9 TiB; .*leave the"
    with struck("preprocess", 2, run_out), pytest.raises(RunError, match=told):
        medseg3d.fit(cases, **places, **SMALL)


def test_a_label_outside_the_training_cases_is_told(
    places: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        write_case(tmp_path / "data", number, value=1)
    only = medseg3d.fit(tmp_path / "data", **places, **SMALL)
    held_out = json.loads((only.folder / "split.json").read_text())["validation"][0]
    write_case(tmp_path / "data", int(held_out[-1]), value=2)
    caplog.clear()
    medseg3d.fit(tmp_path / "data", **(places | {"out": tmp_path / "second"}), **SMALL)
    told = "label 2 (label 2) is in no training case of fold 0 and cannot be learned"
    assert told in caplog.text


def test_a_fold_may_have_a_name_in_what_is_told_of_absent_labels(
    whole: medseg3d.Run, caplog: pytest.LogCaptureFixture
) -> None:
    plan = Plan.load(whole.folder / "plan.yaml")
    having: Any = SimpleNamespace(labels_present=(1,))
    for training in ([], [having]):
        preparing.warn_of_absent_labels(plan, training, [], fold="Oslo")
    assert [text.partition(")")[2].partition(" and")[0] for text in caplog.messages] == [
        " is in no training case of fold Oslo",
        " is in no held-out case of fold Oslo, so nothing will tell how well it is found",
    ]


def test_fewer_patients_than_folds(
    cases: Path, places: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    options = SMALL | {"folds": 9}
    with pytest.raises(ConfigError, match=r"9 folds need as many patients, .* 4; give --set folds"):
        medseg3d.fit(cases, **places, **options)
    del options["folds"]
    with struck("_plan", 1, interrupt), pytest.raises(KeyboardInterrupt):
        medseg3d.fit(cases, **places, **options)
    assert "4 patients give only 4 folds" in caplog.text
    assert len(medseg3d.fit(cases, resume=True, **places).scores.rows) == 1


def test_one_case_cannot_be_split(places: dict[str, Path], tmp_path: Path) -> None:
    write_case(tmp_path / "data", 0)
    with pytest.raises(MedSeg3DError, match="holds cases of 1 patient; fit needs two"):
        medseg3d.fit(tmp_path / "data", **places, **SMALL)
    assert not places["out"].exists()


def test_the_command_ends_in_order(cases: Path, places: dict[str, Path]) -> None:
    options = [f"{key}={json.dumps(value)}" for key, value in SMALL.items() if key != "epochs"]
    command = [sys.executable, "-m", "medseg3d", "fit", str(cases), "-o", str(places["out"])]
    command += ["--set", f"cache={places['cache']}", "--epochs", "100000", "--workers", "1"]
    for option in [option for option in options if not option.startswith("device")]:
        command += ["--set", option]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    last = places["out"] / "checkpoints" / LAST
    deadline = time.monotonic() + 60
    while not last.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    told = process.stderr.read()
    assert process.wait(30) == 143, told
    assert time.monotonic() - begun < 25
    assert "Traceback" not in told
    assert "--resume" in told
    process.stderr.close()
    mine = [
        path.name
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and str(places["out"]).encode() in _command_of(path)
    ]
    assert not mine


def _command_of(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
