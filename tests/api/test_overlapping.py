"""A run on regions that overlap: trained, validated and scored as such, one label map predicted."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medseg3d
from medseg3d.api import compare
from medseg3d.bundle import read_bundle
from medseg3d.config import FitConfig, read_yaml
from medseg3d.data.plan import Plan
from medseg3d.errors import ConfigError
from medseg3d.scoring import Row
from tests.api.small_sets import SMALL, write_cases

REGIONS = {"both": (1, 2), "inner": (2,), "outer": (1,)}
OPTIONS = SMALL | {"width": 4, "patch_size": (8, 8, 8), "epochs": 2, "steps_per_epoch": 12}


Score = Callable[..., list[Row]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {"background": 0, "shell": 1, "core": 2}
    return write_cases(tmp_path_factory.mktemp("regions"), labels)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> medseg3d.Run:
    folder = tmp_path_factory.mktemp("runs")
    return medseg3d.fit(
        data,
        out=folder / "run",
        cache=folder / "cache",
        regions=REGIONS,
        loss="dice_ce+0.1*boundary",
        **OPTIONS,
    )


def test_the_run_tells_of_regions(run: medseg3d.Run) -> None:
    assert set(run.dice) == {"both", "inner", "outer"}
    bundle = read_bundle(run.bundle)
    assert bundle.plan.regions == REGIONS
    assert set(bundle.scores) <= {*REGIONS, "mean"}
    with (run.folder / "history.csv").open() as file:
        columns = next(csv.reader(file))
    assert {"dice_both", "dice_inner", "dice_outer"} <= set(columns)
    assert "dice_shell" not in columns


def test_regions_are_scored_beside_labels(run: medseg3d.Run, data: Path) -> None:
    rows = {(row.case, row.name): row for row in run.scores.rows}
    cases = {case for case, _ in rows}
    assert len(rows) == 5 * len(cases)
    names = ("shell", "core", *REGIONS)
    assert [rows[min(cases), name].label for name in names] == [1, 2, 3, 4, 5]
    for case in cases:
        prediction, reference = (
            np.asarray(nib.load(folder / f"{case}.nii.gz").dataobj)
            for folder in (run.folder / "validation", data / "labelsTr")
        )
        assert set(np.unique(prediction)) <= {0, 1, 2}
        ours, theirs = prediction > 0, reference > 0
        expected = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
        assert rows[case, "both"].scores["dice"] == pytest.approx(expected, abs=1e-6)
        assert rows[case, "both"].reference_ml == pytest.approx(theirs.sum() / 1000)
        inner, core = rows[case, "inner"], rows[case, "core"]
        assert inner.scores["dice"] == core.scores["dice"]
    assert run.dice["both"] == pytest.approx(
        np.mean([rows[case, "both"].scores["dice"] for case in cases])
    )


@pytest.fixture
def scored(run: medseg3d.Run, data: Path, tmp_path: Path) -> Score:
    def score(predictions: Path = run.folder / "validation", **options: object) -> list[Row]:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.csv"
        found = medseg3d.score(predictions, data / "labelsTr", out=out, **skip, **options)
        return list(found.rows)

    skip = {"skip_unpaired": True}
    return score


def test_score_finds_the_regions_of_the_run(run: medseg3d.Run, scored: Score) -> None:
    assert scored() == list(run.scores.rows)


def test_regions_have_a_mean_of_their_own(run: medseg3d.Run) -> None:
    [model] = run.scores.summary.models
    assert model.mean_over_regions is not None
    assert model.mean_over_regions.scores["dice"].mean == pytest.approx(
        np.mean([*run.dice.values()])
    )
    over_labels = [row.scores["dice"] for row in run.scores.rows if row.name in ("shell", "core")]
    assert model.mean_over_labels.scores["dice"].mean == pytest.approx(np.mean(over_labels))


def test_models_are_compared_without_regions_in_the_mean(
    run: medseg3d.Run, data: Path, tmp_path: Path
) -> None:
    folders = [run.folder / "validation", tmp_path / "other"]
    shutil.copytree(*folders)
    stray = min(folders[1].glob("*.nii.gz"))
    volume = nib.load(stray)
    array = np.asarray(volume.dataobj).copy()
    array[0, 0, 0] = 3  # the number of a region in the other table
    nib.save(nib.Nifti1Image(array, volume.affine), stray)
    tables = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for folder, table in zip(folders, tables, strict=True):
        regions = {name: tuple(values) for name, values in REGIONS.items()}
        options = {"regions": regions, "skip_unpaired": True, "out": table}
        medseg3d.score(folder, data / "labelsTr", **options)
    found = compare(tables, out=tmp_path / "comparison.csv", figure="none")
    paired = found.comparison.paired
    assert {paired.names[label] for label in paired.regions} == {*REGIONS}
    tables[0].with_suffix(".json").unlink()  # a table that was mailed alone
    again = compare(tables, out=tmp_path / "again.csv", figure="none")
    assert again.comparison.paired.regions == paired.regions
    [dice] = [each for each in paired.measures if each.name == "dice"]
    both = [label for label in paired.labels if paired.names[label] == "both"]
    assert len(both) == 1, "a region is paired by its name"
    assert not np.isnan(paired.of(dice, both[0])).any()
    labels = [label for label in paired.labels if paired.names[label] in ("shell", "core")]
    expected = np.nanmean([paired.of(dice, label)[0] for label in labels], axis=0)
    whole = paired.cases.index(stray.name.removesuffix(".nii.gz"))
    rest = np.arange(len(paired.cases)) != whole
    np.testing.assert_allclose(paired.of(dice, None)[0][rest], expected[rest])


def test_score_finds_the_regions_whichever_model_comes_first(
    run: medseg3d.Run, tmp_path: Path, scored: Score
) -> None:
    own, unknown = run.folder / "validation", tmp_path / "unknown"
    shutil.copytree(own, unknown)
    found = [
        {(row.name, row.model) for row in scored(first, also=[second])}
        for first, second in ((own, unknown), (unknown, own))
    ]
    assert found[0] == found[1]
    assert {name for name, _ in found[0]} == {"shell", "core", *REGIONS}


def test_score_finds_the_regions_of_the_model(
    run: medseg3d.Run,
    data: Path,
    tmp_path: Path,
    scored: Score,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "predictions"
    monkeypatch.chdir(run.bundle.parent)
    medseg3d.predict(data / "imagesTr", model=run.bundle.name, out=folder, device="cpu")
    monkeypatch.chdir(tmp_path)
    names = {row.name for row in scored(folder)}
    assert names == {"shell", "core", *REGIONS}
    records = folder / "predictions.json"
    records.write_text(records.read_text().replace(read_digest(records), "0" * 64))
    assert {row.name for row in scored(folder)} == {"shell", "core"}  # another model by now


def read_digest(records: Path) -> str:
    digest: str = next(iter(json.loads(records.read_text())["models"].values()))
    return digest


@pytest.mark.parametrize("place", ["", "plan.yaml", "model.medseg3d"])
def test_score_takes_regions_from_where_it_is_told(
    run: medseg3d.Run, tmp_path: Path, scored: Score, place: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run.folder / "validation", elsewhere)
    assert scored(elsewhere, regions=run.folder / place) == list(run.scores.rows)
    assert {row.name for row in scored(elsewhere)} == {"shell", "core"}


def test_score_takes_regions_that_are_named(
    run: medseg3d.Run, data: Path, tmp_path: Path, scored: Score
) -> None:
    rows = {(row.case, row.name): row for row in scored(regions={"all of it": (1, 2)})}
    assert {name for _, name in rows} == {"shell", "core", "all of it"}
    for case in {case for case, _ in rows}:
        for kind, folder in (("ours", run.folder / "validation"), ("theirs", data / "labelsTr")):
            image = nib.load(folder / f"{case}.nii.gz")
            whole = (np.asarray(image.dataobj) > 0).astype(np.uint8)
            (tmp_path / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(whole, image.affine), tmp_path / kind / f"{case}.nii.gz")
    out = tmp_path / "merged.csv"
    merged = medseg3d.score(tmp_path / "ours", tmp_path / "theirs", out=out)
    for row in merged.rows:
        found = rows[row.case, "all of it"]
        assert found.scores == pytest.approx(row.scores, abs=1e-12, nan_ok=True)
        assert found == replace(row, label=3, name="all of it", scores=found.scores)
    told = json.loads((tmp_path / "0.json").read_text())
    assert told["regions"] == {"all of it": [1, 2]}


def test_score_without_regions(scored: Score) -> None:
    assert {row.name for row in scored(regions={})} == {"shell", "core"}


@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        ({"whole": (1, 1)}, "give each region a name other than mean"),
        ({"mean": (1, 2)}, "give each region a name other than mean"),
        ({"whole": (0, 1)}, "greater than 0"),
        ("plan", "has no regions; name a run or model"),
        ("nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_regions_that_cannot_be_scored(
    run: medseg3d.Run, tmp_path: Path, scored: Score, regions: object, reason: str
) -> None:
    if regions == "plan":
        plan = Plan.load(run.folder / "plan.yaml").model_copy(update={"regions": {}})
        plan.save(tmp_path / "plan.yaml")
        regions = tmp_path / "plan.yaml"
    with pytest.raises(ConfigError, match=reason):
        scored(regions=regions)


def test_the_stored_options_bring_them_back(run: medseg3d.Run) -> None:
    stored = FitConfig.model_validate(read_yaml(run.folder / "config.yaml"))
    assert stored.regions == REGIONS


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"regions": {"both": (1, 2)}}, "labels 1, 2 are in the same regions"),
        ({"regions": REGIONS, "loss": "focall"}, "unknown loss 'focall'; did you mean focal"),
    ],
)
def test_what_cannot_be_trained_is_said_before(
    data: Path, tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        medseg3d.fit(data, out=tmp_path / "run", cache=tmp_path / "c", **OPTIONS, **options)
    assert not (tmp_path / "run").exists()
