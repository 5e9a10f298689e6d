"""All folds in one run folder: each an ordinary run, all cases scored out of fold, one ensemble."""

import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

import medseg3d
from medseg3d import api, cli, runs
from medseg3d.api.fitting import planning, validating
from medseg3d.api.fitting import run as fitting
from medseg3d.api.fitting.cross_validation import cross_validate
from medseg3d.api.fitting.planning import planned
from medseg3d.bundle import FILE_NAME, load_bundle
from medseg3d.config import FitConfig, validated
from medseg3d.data.cases import Case
from medseg3d.data.plan import Plan
from medseg3d.data.split import Split, make_folds
from medseg3d.data.split_files import read_splits
from medseg3d.errors import ConfigError, DataError, ModelError, RunError
from medseg3d.progress import LOGGER
from medseg3d.runs import SPLITS, find_bundle, find_bundles
from medseg3d.scoring import read_table
from tests.api.small_sets import write_cases

SHAPE = (14, 12, 10)
SMALL: dict[str, Any] = {
    "epochs": 2,
    "steps_per_epoch": 2,
    "folds": 2,
    "patch_size": (8, 8, 8),
    "batch_size": 1,
    "width": 4,
    "precision": "fp32",
    "device": "cpu",
    "checkpoint_minutes": 0,
    "validate_every": 1,
    "evidence_cases": 0,
    "postprocess": "none",
}


def write_case(folder: Path, case_id: str, *, seed: int, values: tuple[int, ...] = (7,)) -> None:
    """Bright boxes, one for each label value, the later ones inside the earlier."""
    rng = np.random.default_rng(seed)
    image, labels = rng.normal(100, 5, SHAPE), np.zeros(SHAPE, dtype=np.uint8)
    i, j, k = rng.integers(1, 4, 3)
    for depth, value in enumerate(values):
        labels[i + depth : i + 8 - depth, j + depth : j + 7 - depth, k : k + 5] = value
    image += 100 * (labels > 0)
    for name, array in (("images", image.astype(np.int16)), ("labels", labels)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        volume = nib.Nifti1Image(array, np.eye(4))
        volume.header.set_xyzt_units("mm")
        nib.save(volume, folder / name / f"{case_id}.nii.gz")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    for number in range(4):
        write_case(folder, f"box_{number}", seed=number)
    return folder


@pytest.fixture(scope="module")
def whole(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> medseg3d.Run:
    folder = tmp_path_factory.mktemp("whole")
    return medseg3d.fit(cases, fold="all", out=folder / "run", cache=folder / "cache", **SMALL)


def cache_of(whole: medseg3d.Run) -> Path:
    return whole.folder.parent / "cache"


def weights(model: Path) -> dict[str, Any]:
    return dict(load_bundle(model)[1])


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def voxels(path: Path) -> Any:
    return np.asarray(nib.load(path).dataobj)


@contextmanager
def struck(home: object, place: str, at: int, act: Callable[[], object]) -> Iterator[None]:
    """Do something at the so-many-th call of a function."""
    calls, plain = 0, getattr(home, place)

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
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)


def test_every_fold_is_a_run_and_every_case_is_held_out_once(whole: medseg3d.Run) -> None:
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {"config.yaml", "plan.yaml", SPLITS, "fold_0", "fold_1", "validation"}
    folds = read_splits(whole.folder / SPLITS)
    assert sorted(folds["0"].validation + folds["1"].validation) == [f"box_{n}" for n in range(4)]
    plan = Plan.load(whole.folder / "plan.yaml")
    assert plan.num_cases == 4, "one plan, measured on all cases"
    for number, part in enumerate(folds.values()):
        run = whole.folder / f"fold_{number}"
        for name in ("config.yaml", "provenance.json", "history.csv", FILE_NAME, "checkpoints"):
            assert (run / name).exists()
        assert Split(**json.loads((run / "split.json").read_text())) == part
        assert load_bundle(run / FILE_NAME)[0].plan == plan
        labeled = {path.name for path in (run / "validation").glob("*.nii.gz")}
        assert labeled == {f"{case_id}.nii.gz" for case_id in part.validation}
    assert whole.bundle == whole.folder


def test_all_cases_are_scored_out_of_fold(whole: medseg3d.Run, cases: Path, tmp_path: Path) -> None:
    folder = whole.folder / "validation"
    for number in range(2):
        for path in (whole.folder / f"fold_{number}" / "validation").glob("*.nii.gz"):
            np.testing.assert_array_equal(voxels(path), voxels(folder / path.name))
    again = medseg3d.score(folder, cases / "labels", out=tmp_path / "scores.csv")
    expected = {row.case: row.scores["dice"] for row in again.rows}
    found = {row.case: row.scores["dice"] for row in whole.scores.rows}
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert list(found) == [f"box_{n}" for n in range(4)]
    assert whole.scores.csv == folder / "scores.csv"
    assert len(read_table(whole.scores.csv)) == 4
    assert whole.dice == {"label 7": pytest.approx(np.mean([*found.values()]))}
    (label,) = whole.scores.summary.models[0].labels
    assert label.n == 4
    assert label.scores["dice"].mean == pytest.approx(whole.dice["label 7"])
    told = json.loads(whole.scores.json.read_text())["dice_of_folds"]
    folds = read_splits(whole.folder / SPLITS)
    of_folds = {n: np.mean([found[case] for case in part.validation]) for n, part in folds.items()}
    assert told == pytest.approx(of_folds, abs=1e-5)


def test_a_fold_is_what_fit_alone_would_have_made(
    whole: medseg3d.Run, cases: Path, tmp_path: Path
) -> None:
    options = SMALL | {"plan": whole.folder / "plan.yaml"}
    for name in ("patch_size", "batch_size", "width"):
        del options[name]
    alone = medseg3d.fit(cases, fold=1, out=tmp_path, cache=cache_of(whole), **options)
    assert_same_weights(alone.bundle, whole.folder / "fold_1" / FILE_NAME)
    ours, theirs = (
        (run / "config.yaml").read_text() for run in (tmp_path, whole.folder / "fold_1")
    )
    different = [line.split(":")[0] for line in set(ours.splitlines()) ^ set(theirs.splitlines())]
    assert set(different) <= {"out"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # open files
def test_resume_goes_on_with_the_fold_in_hand(
    whole: medseg3d.Run,
    cases: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = {"out": tmp_path / "run", "cache": cache_of(whole)}
    first = places["out"] / "fold_0" / FILE_NAME
    validations = SMALL["epochs"] * 2  # of two cases each fold
    with (
        struck(validating, "predict_labels", validations + 3, interrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        medseg3d.fit(cases, fold="all", **places, **SMALL)
    told = [record.getMessage() for record in caplog.records if "--resume" in record.getMessage()]
    assert told == [f"stopped; go on with: medseg3d fit {cases} -o {places['out']} --resume"]
    with pytest.raises(
        ModelError, match=r"of which fold_1 is not finished; go on with .* --resume"
    ):
        find_bundles(places["out"])
    written = first.stat().st_mtime_ns
    went_on: list[bool] = []
    plain = fitting.train

    def train(*arguments: Any, **options: Any) -> Any:
        went_on.append(options["resume"] and (options["folder"] / "checkpoints").is_dir())
        return plain(*arguments, **options)

    monkeypatch.setattr(fitting, "train", train)
    resumed = medseg3d.fit(cases, resume=True, **places)
    assert went_on == [True], "one fold, from its checkpoint"
    assert first.stat().st_mtime_ns == written, "a finished fold is left alone"
    assert_same_weights(places["out"] / "fold_1" / FILE_NAME, whole.folder / "fold_1" / FILE_NAME)
    assert resumed.scores.csv.read_bytes() == whole.scores.csv.read_bytes()
    assert resumed.dice == whole.dice


def test_a_fold_resumes_alone_and_finished_ones_are_only_put_together(
    whole: medseg3d.Run, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"out": tmp_path / "run", "cache": cache_of(whole)}

    def out_of_memory() -> None:
        raise RunError("memory ran out")

    with (
        struck(fitting, "train", 2, out_of_memory),
        pytest.raises(RunError, match="memory ran out"),
    ):
        medseg3d.fit(cases, fold="all", **places, **SMALL)
    fold = medseg3d.fit(cases, out=places["out"] / "fold_1", cache=places["cache"], resume=True)
    assert_same_weights(fold.bundle, whole.folder / "fold_1" / FILE_NAME)
    assert not (places["out"] / "validation").exists()
    monkeypatch.setattr(fitting, "train", None)
    together = medseg3d.fit(cases, resume=True, fold="all", **places)
    assert together.scores.csv.read_bytes() == whole.scores.csv.read_bytes()
    (places["out"] / "fold_1" / "validation" / "scores.csv").unlink()
    with pytest.raises(TypeError):  # its scores are found again, which takes its run
        medseg3d.fit(cases, resume=True, **places)


def test_cases_and_plan_stay_the_same_in_all_folds(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "boxes"
    shutil.copytree(cases, data)
    places = {"out": tmp_path / "run", "cache": tmp_path / "cache"}
    begun: list[Path] = []

    def train(*arguments: Any, **options: Any) -> Any:
        begun.append(options["folder"])
        raise RunError("seen")

    monkeypatch.setattr(fitting, "train", train)
    with pytest.raises(RunError, match="seen"):
        medseg3d.fit(data, fold="all", **places, **SMALL)
    (finished(places["out"] / "fold_0", at=1000).parent / "validation").mkdir(exist_ok=True)
    (places["out"] / "fold_0" / "validation" / "scores.csv").touch()
    image = data / "images" / "box_2.nii.gz"
    sound = image.read_bytes()
    write_case(data, "box_2", seed=99)
    with pytest.raises(RunError, match=r"^1 cases have changed since .* such as box_2"):
        medseg3d.fit(data, resume=True, **places)
    assert [path.name for path in begun] == ["fold_0"]
    image.write_bytes(sound)
    shutil.copy(cases / "labels" / "box_2.nii.gz", data / "labels")
    with pytest.raises(RunError, match="seen"):
        medseg3d.fit(data, resume=True, **places)
    assert [path.name for path in begun] == ["fold_0", "fold_1"]
    facts = [json.loads(path.read_text()) for path in places["out"].rglob("provenance.json")]
    assert facts[0]["data"] == facts[1]["data"]
    plan = places["out"] / "plan.yaml"
    plan.write_text(plan.read_text().replace("batch_size: 1", "batch_size: 2"))
    with pytest.raises(RunError, match=r"run/plan.yaml has changed since fold_0 was begun; put"):
        medseg3d.fit(data, resume=True, **places)


def test_a_label_map_that_is_gone_is_told(whole: medseg3d.Run, cases: Path) -> None:
    (labels,) = list((whole.folder / "fold_0" / "validation").glob("*.nii.gz"))[:1]
    content = labels.read_bytes()
    labels.unlink()
    try:
        with pytest.raises(RunError, match=rf"{labels} is gone, which its fold had written; put"):
            medseg3d.fit(cases, out=whole.folder, resume=True)
    finally:
        labels.write_bytes(content)


def test_predict_averages_the_models_of_all_folds(
    whole: medseg3d.Run, cases: Path, tmp_path: Path
) -> None:
    image = cases / "images" / "box_1.nii.gz"
    models = [whole.folder / "fold_0", whole.folder / "fold_1"]

    def predicted(name: str, model: Any, **options: Any) -> Any:
        out = tmp_path / f"{name}.nii.gz"
        options = {"device": "cpu", "probabilities": True, "backend": "eager"} | options
        medseg3d.predict(image, model=model, out=out, **options)
        return voxels(tmp_path / f"{name}_probabilities.nii.gz")

    together = predicted("together", whole.folder)
    np.testing.assert_array_equal(together, predicted("named", models))
    assert not np.array_equal(together, predicted("first", models[0]))
    fast = predicted("fast", whole.folder, fast=True)
    np.testing.assert_array_equal(fast, predicted("first_fast", models[0], fast=True))


def test_review_shows_all_cases(whole: medseg3d.Run, tmp_path: Path) -> None:
    assert api.review(whole.folder, out=tmp_path / "review").num_cases == 4


@pytest.fixture
def tumors(tmp_path: Path) -> Path:
    """Nine cases, three with a second label."""
    for number in range(9):
        values = (1, 2) if number in (0, 4, 5) else (1,)
        write_case(tmp_path / "tumors", f"t{number}", seed=number, values=values)
    return tmp_path / "tumors"


def of(data: Path, **options: Any) -> FitConfig:
    return validated(FitConfig, {"data": data} | SMALL | options)


def test_folds_are_stratified_by_the_labels_of_the_cases(tumors: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    _, plan, parts = planned(of(tumors, fold="all", folds=3), run)
    assert (plan.num_cases, parts.validation) == (9, ())
    with_tumor = {"t0", "t4", "t5"}
    folds = read_splits(run / SPLITS)
    assert [len(with_tumor & {*part.validation}) for part in folds.values()] == [1, 1, 1]
    by_size = make_folds([Case(f"t{n}", (), None, f"t{n}") for n in range(9)], folds=3)
    assert [len(with_tumor & {*fold}) for fold in by_size] != [1, 1, 1]
    _, _, one = planned(of(tumors, fold=2, folds=3), tmp_path / "one")
    assert one == folds["2"], "a fold is the same whether trained alone or among all"


def test_one_site_is_left_out_by_its_name_or_number(tumors: Path, tmp_path: Path) -> None:
    sites = tmp_path / "sites.csv"
    lines = [f"t{number},{'Oslo' if number < 3 else 'Bern'}" for number in range(9)]
    sites.write_text("\n".join(["case,site", *lines]))
    for name, fold in (("a", "Oslo"), ("b", 1)):
        _, plan, parts = planned(of(tumors, sites=sites, fold=fold), tmp_path / name)
        assert parts.validation == ("t0", "t1", "t2")
        assert plan.num_cases == 6
    stored = runs.interrupted_run(FitConfig(data=tumors, out=tmp_path / "a", resume=True))[1]
    assert (stored.fold, stored.sites) == ("Oslo", sites)
    with pytest.raises(ConfigError, match=r"fold Rome does not .* 0 to 1 \(Bern, Oslo\)"):
        planned(of(tumors, sites=sites, fold="Rome"), tmp_path / "c")
    assert not list((tmp_path / "c").iterdir())


def test_sites_that_are_named_by_numbers_are_meant_by_them(tumors: Path, tmp_path: Path) -> None:
    sites = tmp_path / "sites.csv"
    sites.write_text("case,site\nt0,1\nt1,1\nt2,1\nt3,2\nt4,2\nt5,2\nt6,07\nt7,30\nt8,30\n")
    for fold, site in (("1", ("t0", "t1", "t2")), (2, ("t3", "t4", "t5")), ("07", ("t6",))):
        _, _, parts = planned(of(tumors, sites=sites, fold=fold), tmp_path / f"fold {fold}")
        assert parts.validation == site


def test_folds_of_sites_that_are_named_by_numbers_are_kept_as_they_are_trained(
    tumors: Path, tmp_path: Path
) -> None:
    sites, run = tmp_path / "sites.csv", tmp_path / "run"
    sites.write_text("\n".join(["case,site", *[f"t{n},{1 + n // 3}" for n in range(9)]]))
    config = of(tumors, sites=sites, fold="all", out=run)
    _, plan, _ = planned(config, run)
    trained: dict[str, tuple[int | str, Split]] = {}

    def fit_fold(config: FitConfig, part: Split, place: Path) -> None:
        trained[place.name] = (config.fold, part)
        if place.name == "fold_2":
            raise RunError("seen")

    with pytest.raises(RunError, match="seen"):
        cross_validate(config, plan, run, fit_fold)
    for number, site in enumerate(("1", "2", "3")):
        fold, part = trained[f"fold_{number}"]
        held_out = tuple(f"t{3 * number + n}" for n in range(3))
        assert (fold, part.validation) == (site, held_out)
        alone = FitConfig(data=tumors, out=run / f"fold_{number}", resume=True)
        place, stored = runs.interrupted_run(alone)
        assert planned(stored, place)[2] == part, "resumed alone it holds out the same"


def test_folds_of_splits_with_names_can_be_resumed_alone(tumors: Path, tmp_path: Path) -> None:
    sites, splits, run = tmp_path / "sites.csv", tmp_path / "one" / SPLITS, tmp_path / "run"
    names = ["Bern", "01", "0"]
    sites.write_text("\n".join(["case,site", *[f"t{n},{names[n // 3]}" for n in range(9)]]))
    planned(of(tumors, sites=sites, fold="all", out=splits.parent), splits.parent)
    config = of(tumors, splits=splits, fold="all", out=run)
    _, plan, _ = planned(config, run)
    places: list[tuple[Path, Split]] = []

    def fit_fold(config: FitConfig, part: Split, place: Path) -> None:
        places.append((place, part))

    with pytest.raises(RunError, match=r"t6\.nii\.gz is gone"):  # nobody has labeled the cases
        cross_validate(config, plan, run, fit_fold)
    assert [part.validation[0] for _, part in places] == ["t6", "t3", "t0"]
    for place, part in places:
        alone = FitConfig(data=tumors, out=place, resume=True)
        assert planned(runs.interrupted_run(alone)[1], place)[2] == part


def test_splits_of_nnunet_are_taken(
    tumors: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    splits = tmp_path / "splits_final.json"
    folds = [{"train": ["t1", "t2"], "val": ["t0"]}, {"train": ["t0"], "val": ["t2", "t3"]}]
    splits.write_text(json.dumps(folds))
    _, plan, parts = planned(of(tumors, splits=splits, fold=1), tmp_path / "one")
    assert parts == Split(("t0",), ("t2", "t3"))
    assert plan.num_cases == 1
    _, plan, parts = planned(of(tumors, splits=splits, fold="all"), tmp_path / "all")
    assert parts.training == ("t0", "t1", "t2", "t3")
    assert f"6 cases (t1, t4, t5, t6, t7, t8) held out in no fold of {splits}" in caplog.text
    splits.write_text(json.dumps([*folds, folds[0]]))
    with pytest.raises(DataError, match="case t0 is held out in the folds 0 and 2, so that it"):
        planned(of(tumors, splits=splits, fold="all"), tmp_path / "twice")
    monkeypatch.setattr(planning, "check_cases", None)  # refused before the cases are read
    with pytest.raises(ConfigError, match=r"fold 3 does not exist; folds are 0 to 2$"):
        planned(of(tumors, splits=splits, fold=3), tmp_path / "none")


def test_a_file_of_one_split_is_enough(tumors: Path, tmp_path: Path) -> None:
    splits = tmp_path / "splits_final.json"
    splits.write_text(json.dumps([{"train": ["t1", "t2", "t3"], "val": ["t4"]}]))
    _, _, parts = planned(of(tumors, splits=splits), tmp_path / "run")
    assert parts == Split(("t1", "t2", "t3"), ("t4",))


def finished(run: Path, *, at: float) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    (run / FILE_NAME).touch()
    os.utime(run / FILE_NAME, (at, at))
    return run / FILE_NAME


def test_the_newest_run_may_be_a_cross_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no finished run"):
        find_bundles(None)
    older = finished(tmp_path / "runs" / "older", at=1000)
    both = tmp_path / "runs" / "both"
    first = finished(both / "fold_0", at=2000)
    names = [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]
    (both / SPLITS).write_text(json.dumps(names))
    assert [path.resolve() for path in find_bundles(None)] == [older], "one fold is missing"
    second = finished(both / "fold_1", at=500)
    assert [path.resolve() for path in find_bundles(None)] == [first, second]
    newest = finished(tmp_path / "runs" / "newest", at=3000)
    assert [path.resolve() for path in find_bundles(None)] == [newest]
    assert find_bundles(older) == [older]
    with pytest.raises(ModelError, match=r"is a cross-validation; name the run of one fold"):
        find_bundle(both)
    with pytest.raises(ModelError, match=r"is a cross-validation; name the run of one fold"):
        api.info(both)


@pytest.fixture
def _logger_as_it_was() -> Iterator[None]:
    """The command line sets up the logger of the program."""
    before = list(LOGGER.handlers)
    yield
    LOGGER.handlers[:] = before
    LOGGER.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("_logger_as_it_was")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (0, 5)),
        (["--folds", "3"], ("all", 3)),
        (["--folds", "3", "--fold", "1"], (1, 3)),
        (["--fold", "2"], (2, 5)),
        (["--fold", "all"], ("all", 5)),
        (["--folds", "3", "--set", "fold=0"], (0, 3)),
        (["--set", "folds=3"], (0, 3)),
        (["--config", "both.yaml"], (1, 4)),
        (["--config", "both.yaml", "--folds", "3"], ("all", 3)),
        (["--config", "both.yaml", "--fold", "0"], (0, 4)),
        (["--set", "sites=a.csv", "--fold", "Oslo"], ("Oslo", 5)),
        (["--set", "sites=a.csv", "--fold", "7"], (7, 5)),
    ],
)
def test_folds_as_a_flag_mean_all_of_them(
    arguments: list[str],
    expected: tuple[int | str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "both.yaml").write_text("fold: 1\nfolds: 4\n")
    found: list[FitConfig] = []

    def fit(config: FitConfig) -> None:
        found.append(config)
        raise RunError("seen")

    monkeypatch.setattr(api, "fit", fit, raising=False)
    CliRunner().invoke(cli.app, ["fit", "cases", *arguments])
    assert [(config.fold, config.folds) for config in found] == [expected]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"fold": 5}, "fold 5 does not exist; folds are 0 to 4"),
        ({"fold": "-1"}, "fold -1 does not exist; folds are 0 to 4"),
        ({"fold": -1, "splits": "a.json"}, "fold -1 does not exist; folds count from 0"),
        ({"fold": "Oslo"}, "fold must be a number from 0 or all, got 'Oslo'; names need sites"),
        ({"splits": "a.json", "sites": "b.csv"}, "sites and splits exclude each other"),
    ],
)
def test_folds_that_cannot_be_meant(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        validated(FitConfig, {"data": "cases"} | options)


def test_patients_may_be_told_in_a_table(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "cases", {"background": 0, "box": 1})
    names = [case.id for case in planning._found(FitConfig(data=data)).cases]
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\n" + "".join(f"{name},same\n" for name in names))
    cases = planning._found(FitConfig(data=data, patients=table)).cases
    assert {case.patient for case in cases} == {"same"}
    table.write_text("case,patient\n")
    with pytest.raises(DataError, match=f"names no patient for {names[0]}"):
        planning._found(FitConfig(data=data, patients=table))
