"""``fit --dry-run``: real steps, hand-worked estimates, and nothing that stays."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

import medseg3d
from medseg3d import cli
from medseg3d.api import Rehearsal, rehearse
from medseg3d.api.fitting import rehearsal
from medseg3d.config import FitConfig
from medseg3d.data.plan import Plan
from medseg3d.errors import ConfigError, DataError, RunError
from medseg3d.training.history import History
from medseg3d.training.train import GOES_ON

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
    "validate_every": 1,
}


def write_case(folder: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    image, labels = rng.normal(100, 5, SHAPE), np.zeros(SHAPE, dtype=np.uint8)
    i, j, k = rng.integers(1, 4, 3)
    labels[i : i + 8, j : j + 7, k : k + 5] = 7
    image += 100 * (labels > 0)
    for name, array in (("images", image.astype(np.int16)), ("labels", labels)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        volume = nib.Nifti1Image(array, np.eye(4))
        volume.header.set_xyzt_units("mm")
        nib.save(volume, folder / name / f"box_{number}.nii.gz")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    for number in range(6):
        write_case(folder, number)
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(cases: Path, **changes: Any) -> FitConfig:
    return FitConfig(data=cases, **SMALL | changes)


def test_it_trains_as_fit_would_and_keeps_nothing(cases: Path, place: Path) -> None:
    found = rehearse(config(cases))
    assert list(place.rglob("*")) == []
    run = medseg3d.fit(config(cases, out=place / "run", cache=place / "cache"))
    stored = medseg3d.api.info(run.bundle)
    assert found.parameters == stored["parameters"]
    assert found.plan == Plan.load(run.folder / "plan.yaml")
    assert found.num_cases == (3, 3)
    assert (found.steps, found.folds, found.device) == (9, 1, "cpu, fp32")
    assert found.minutes == pytest.approx(9 * found.seconds_per_step / 0.95 / 60)
    assert 0 < found.seconds_per_step < 5
    assert found.memory > found.peak_memory > 1 << 20
    cached = sum(path.stat().st_size for path in (place / "cache").rglob("*") if path.is_file())
    assert found.cache_bytes == pytest.approx(cached, rel=0.2)
    page = (run.folder / "index.html").read_text("utf-8")
    assert "training is over" in page
    assert page.count("data:image/png") == 1
    taken = sum(
        path.stat().st_size for path in run.folder.rglob("*") if path.suffix == ".safetensors"
    )
    assert taken < found.run_bytes


def test_no_picture_is_shown_of_an_untrained_network(
    cases: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg3d.training.callbacks.VALIDATION_SHARE", 0.0)  # never affordable
    options = {"validate_every": None, "epochs": 1, "evidence_cases": 0, "postprocess": "none"}
    run = medseg3d.fit(config(cases, out=place / "run", cache=place / "cache", **options))
    assert "data:image" not in (run.folder / "index.html").read_text("utf-8")


def told(cases: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Rehearsal:
    """As if 20 steps took two minutes."""
    rows = [{"step": 5, "minutes": 1.0}, {"step": 15, "minutes": 1.5}, {"step": 25, "minutes": 3.0}]
    asked: dict[str, Any] = {}

    def fake(*_: object, **options: Any) -> History:
        asked.update(options)
        return History(["box"], rows)

    monkeypatch.setattr(rehearsal, "train", fake)
    options = {name: value for name, value in SMALL.items() if name != "epochs"}
    found = rehearse(FitConfig(data=cases, **options | changes))
    assert asked["settings"].budget.steps == 25
    assert asked["settings"].early_stop is None
    assert asked["settings"].logger is None
    return found


def test_a_budget_of_minutes_gives_steps(cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(cases, monkeypatch, max_minutes=10, early_stop=3)
    assert found.seconds_per_step == pytest.approx(6)
    assert (found.steps, found.minutes) == (95, 10)  # 570 of 600 seconds, the rest validates
    lines = {row["what"]: row["value"] for row in found.rows()}
    assert lines["speed"] == "0.167 steps/s (20 measured)"
    assert lines["budget"] == "about 95 steps in 10 min 0 s"
    assert lines["cases"] == "3 to learn from, 3 held out"


def test_a_budget_of_epochs_takes_minutes(cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(cases, monkeypatch, epochs=95, steps_per_epoch=2)
    assert (found.steps, found.minutes) == (190, pytest.approx(20))


def test_of_all_folds_it_tells_what_each_takes(
    cases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = told(cases, monkeypatch, fold="all", folds=3, max_minutes=10)
    assert (found.folds, found.num_cases, found.steps) == (3, (6, 0), 95)
    lines = {row["what"]: row["value"] for row in found.rows()}
    assert lines["cases"] == "6, each held out in one of 3 folds"
    assert lines["budget"].endswith(", for each of 3 folds")


def test_the_command_prints_a_table(cases: Path, place: Path) -> None:
    options = (
        "--device cpu --epochs 2 --fold 0 --set folds=2 --set patch_size=[8,8,8] --set width=4"
    )
    result = CliRunner().invoke(cli.app, ["fit", str(cases), "--dry-run", *options.split()])
    assert result.exit_code == 0, result.output
    head, *lines = result.stdout.splitlines()
    assert head == "what\tvalue"
    assert [line.partition("\t")[0] for line in lines] == [
        *("cases", "spacing", "patch", "network", "device", "speed", "budget"),
        *("peak memory", "cache", "run folder"),
    ]
    assert list(place.rglob("*")) == []


def test_what_stops_a_step_is_told_without_a_way_to_resume(
    cases: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RunError(f"memory ran out{GOES_ON}")

    monkeypatch.setattr(rehearsal, "train", fail)
    with pytest.raises(RunError, match=r"^memory ran out$"):
        rehearse(config(cases))
    assert list(place.rglob("*")) == []


def test_ctrl_c_leaves_nothing(cases: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rehearsal, "train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rehearse(config(cases))
    assert list(place.rglob("*")) == []


def test_it_refuses_what_fit_refuses(cases: Path, place: Path) -> None:
    (place / "used").mkdir()
    (place / "used" / "file").touch()
    with pytest.raises(RunError, match="already in use"):
        rehearse(config(cases, out=place / "used"))
    with pytest.raises(ConfigError, match="did you mean unet3d"):
        rehearse(config(cases, network="unet3"))
    with pytest.raises(DataError):
        rehearse(config(place / "used"))
    assert sorted(path.name for path in place.rglob("*")) == ["file", "used"]


def test_a_full_disk_is_one_sentence(cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rehearsal.tempfile, "TemporaryDirectory", fail)
    with pytest.raises(RunError, match=r"cannot be written: the disk is full; free some space$"):
        rehearse(config(cases))


def test_it_is_no_fit_and_resumes_nothing(cases: Path) -> None:
    with pytest.raises(ConfigError, match=r"call medseg3d\.api\.rehearse"):
        medseg3d.fit(cases, dry_run=True, **SMALL)
    with pytest.raises(ConfigError, match="dry_run and resume exclude each other"):
        medseg3d.fit(cases, dry_run=True, resume=True, **SMALL)
