"""A run on regions that overlap: trained, validated and scored as such, one label map predicted."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medseg3d
from medseg3d.bundle import read_bundle
from medseg3d.config import FitConfig, read_yaml
from medseg3d.errors import ConfigError
from tests.api.small_sets import SMALL, write_cases

REGIONS = {"both": (1, 2), "inner": (2,), "outer": (1,)}
OPTIONS = SMALL | {"width": 4, "patch_size": (8, 8, 8), "epochs": 2, "steps_per_epoch": 12}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {"background": 0, "shell": 1, "core": 2}
    return write_cases(tmp_path_factory.mktemp("regions"), labels)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> medseg3d.Run:
    folder = tmp_path_factory.mktemp("runs")
    return medseg3d.fit(
        data, out=folder / "run", cache=folder / "cache", regions=REGIONS, **OPTIONS
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


def test_the_stored_options_bring_them_back(run: medseg3d.Run) -> None:
    stored = FitConfig.model_validate(read_yaml(run.folder / "config.yaml"))
    assert stored.regions == REGIONS


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"regions": {"both": (1, 2)}}, "labels 1, 2 are in the same regions"),
        ({"regions": REGIONS, "loss": "focal"}, "'focal' has no form for regions"),
    ],
)
def test_what_cannot_be_trained_is_said_before(
    data: Path, tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        medseg3d.fit(data, out=tmp_path / "run", cache=tmp_path / "c", **OPTIONS, **options)
    assert not (tmp_path / "run").exists()
