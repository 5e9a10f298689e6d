"""Runs that learn the class of a case: from a CSV, with masks for some cases only."""

import csv
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import medseg3d
from medseg3d.api.fitting.diagnoses import write_diagnoses
from medseg3d.api.fitting.planning import planned
from medseg3d.api.fitting.rehearsal import rehearse
from medseg3d.api.predicting import worker
from medseg3d.bundle import load_network, read_bundle, save_bundle
from medseg3d.config import FitConfig
from medseg3d.data.plan import Plan
from medseg3d.errors import ConfigError, DataError, RunError
from medseg3d.networks.unet import ynet_3d
from tests.api.small_sets import SMALL, write_cases

LABELS = {"background": 0, "organ": 3}
OPTIONS: dict[str, Any] = SMALL | {
    "width": 4,
    "patch_size": (8, 8, 8),
    "batch_size": 2,
    "steps_per_epoch": 4,
    "network": "ynet_3d",
}
WITHOUT_MASK = ("case_4", "case_5")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases of two classes, the last two without a label map."""
    folder = write_cases(tmp_path_factory.mktemp("weak"), LABELS, count=6)
    for name in WITHOUT_MASK:
        (folder / "labelsTr" / f"{name}.nii.gz").unlink()
    lines = [f"case_{n},{('healthy', 'ill')[n % 2]}" for n in range(6)]
    (folder / "classes.csv").write_text("\n".join(["case,class", *lines]))
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> medseg3d.Run:
    folder = tmp_path_factory.mktemp("runs")
    classes = data / "classes.csv"
    return medseg3d.fit(
        data, out=folder / "run", cache=folder / "cache", classes=classes, **OPTIONS
    )


def test_cases_without_a_mask_are_learned_from_and_not_held_out(run: medseg3d.Run) -> None:
    parts = json.loads((run.folder / "split.json").read_text())
    assert set(parts["training"]) > set(WITHOUT_MASK)
    assert len(parts["training"]) == 4
    assert {row.case for row in run.scores.rows} == set(parts["validation"])
    origin = json.loads((run.folder / "provenance.json").read_text())["data"]
    assert [origin[f"case_{n}"]["class"] for n in (0, 5)] == ["healthy", "ill"]


def test_the_model_knows_its_classes_and_predicts(run: medseg3d.Run, data: Path) -> None:
    model = read_bundle(run.bundle)
    assert model.plan.classes == ("healthy", "ill")
    assert model.options["classes"] == 2
    assert model.plan.labels == {0: "background", 3: "organ"}
    image = data / "imagesTr" / "case_4_0000.nii.gz"
    (found,) = medseg3d.predict(image, model=run.folder, out=run.folder / "out.nii.gz")
    assert found.path.is_file()


def test_predict_tells_no_class_by_a_model_that_is_replaced_meanwhile(
    run: medseg3d.Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, real = tmp_path / "model.medseg3d", worker.Diagnoses
    bundle, network = read_bundle(run.bundle), load_network(run.bundle)
    save_bundle(model, bundle, network)

    def late(*given: Any) -> Any:
        save_bundle(model, bundle.model_copy(update={"scores": {"mean": 0.5}}), network)
        return real(*given)

    monkeypatch.setattr(worker, "Diagnoses", late)
    image = data / "imagesTr" / "case_4_0000.nii.gz"
    with pytest.raises(RunError, match="is another model than when the command began"):
        medseg3d.predict(image, model=model, out=tmp_path / "out.nii.gz")
    assert not (tmp_path / "out.nii.gz").exists()


def test_predict_tells_the_class_that_validation_tells(
    run: medseg3d.Run, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = {}
    with (run.folder / "validation" / "classes.csv").open() as file:
        for row in csv.DictReader(file):
            expected[row["case"]] = [float(row[f"probability_{n}"]) for n in ("healthy", "ill")]
    images = [data / "imagesTr" / f"{case}_0000.nii.gz" for case in expected]
    caplog.set_level(logging.INFO)
    options: dict[str, Any] = {"model": run.folder, "crop": False}
    found = medseg3d.predict(images, out=tmp_path / "one", **options)
    stored = json.loads((tmp_path / "one" / "predictions.json").read_text())["cases"].values()
    for each, record in zip(found, stored, strict=True):
        assert record["classes"] == each.classes
        assert list(each.classes) == ["healthy", "ill"]
        assert list(each.classes.values()) == pytest.approx(expected[each.case_id], abs=2e-4)
        name = max(each.classes, key=lambda name: each.classes[name])
        assert f"case {each.case_id}: class {name} (" in caplog.text
    twice = medseg3d.predict(
        images, out=tmp_path / "two", **options | {"model": [run.folder, run.folder]}
    )
    assert [each.classes for each in twice] == [each.classes for each in found]


def test_the_class_that_is_found_of_each_held_out_case_is_told(run: medseg3d.Run) -> None:
    with (run.folder / "validation" / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == sorted({row.case for row in run.scores.rows})
    for row in rows:
        assert row["class"] == ("healthy", "ill")[int(row["case"][-1]) % 2]
        probabilities = {name: float(row[f"probability_{name}"]) for name in ("healthy", "ill")}
        assert sum(probabilities.values()) == pytest.approx(1, abs=2e-4)
        assert row["found"] == max(probabilities, key=lambda name: probabilities[name])


def test_what_lacks_a_mask_has_a_value_that_is_free_in_a_given_plan_too(
    run: medseg3d.Run, data: Path, tmp_path: Path
) -> None:
    plan = Plan.load(run.folder / "plan.yaml")
    assert plan.ignore_label == 4
    labels = {0: "background", 3: "organ", 4: "tumor"}
    plan.model_copy(update={"ignore_label": None, "labels": labels}).save(tmp_path / "plan.yaml")
    decided = {"width", "patch_size", "batch_size"}
    options = {name: value for name, value in OPTIONS.items() if name not in decided}
    classes = data / "classes.csv"
    config = FitConfig(data=data, classes=classes, plan=tmp_path / "plan.yaml", **options)
    (tmp_path / "run").mkdir()
    _, found, _ = planned(config, tmp_path / "run")
    assert (found.labels, found.ignore_label) == (labels, 5)


def test_a_class_whose_name_is_no_utf8_keeps_its_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"p\xe9")
    options = {"window": (4, 4, 4), "device": torch.device("cpu")}
    write_diagnoses(nn.Identity(), [], [], [name], tmp_path / "classes.csv", **options)
    assert (tmp_path / "classes.csv").read_bytes() == b"case,class,found,probability_p\xe9\n"


def test_the_objective_gets_classes_and_what_is_not_annotated(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, set[tuple[int, ...]]] = {}
    own = ynet_3d.YNet3D.objective

    def told(self: Any, loss: Any, image: Any, labels: Any, classes: Any) -> Any:
        for of_case, index in zip(labels, classes.tolist(), strict=True):
            seen.setdefault(index, set()).add(tuple(of_case.unique().tolist()))
        return own(self, loss, image, labels, classes)

    monkeypatch.setattr(ynet_3d.YNet3D, "objective", told)
    classes = tmp_path / "classes.csv"  # those without a mask are a class of their own
    lines = [f"case_{n},{'b' if n > 3 else 'a'}" for n in range(6)]
    classes.write_text("\n".join(["case,class", *lines]))
    medseg3d.fit(data, out=tmp_path / "run", cache=tmp_path / "cache", classes=classes, **OPTIONS)
    assert seen.keys() == {0, 1}
    assert seen[1] == {(2,)}, "two labels, so that 2 stands for what nobody annotated"
    assert set().union(*seen[0]) == {0, 1}


def test_a_run_without_classes_learns_what_is_shown(data: Path, tmp_path: Path) -> None:
    found = medseg3d.fit(
        data, out=tmp_path / "run", cache=tmp_path / "cache", skip_unpaired=True, **OPTIONS
    )
    model = read_bundle(found.bundle)
    assert model.plan.classes == ()
    assert "classes" not in model.options


def test_a_dry_run_takes_classes_too(data: Path, tmp_path: Path) -> None:
    config = FitConfig(
        data=data,
        out=tmp_path / "run",
        cache=tmp_path / "cache",
        classes=data / "classes.csv",
        dry_run=True,
        **OPTIONS,
    )
    assert rehearse(config).num_cases == (4, 2)


def test_a_run_goes_on_with_its_classes_and_with_no_others(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classes = tmp_path / "classes.csv"
    shutil.copy(data / "classes.csv", classes)
    options = OPTIONS | {"cache": tmp_path / "cache", "checkpoint_minutes": 0}
    first = medseg3d.fit(data, out=tmp_path / "run", classes=classes, **options)
    before = torch.tensor(list(first.dice.values()))
    caplog.set_level(logging.WARNING)
    (tmp_path / "run" / "model.medseg3d").unlink()
    again = medseg3d.fit(data, out=tmp_path / "run", resume=True)
    assert torch.equal(torch.tensor(list(again.dice.values())), before)
    (tmp_path / "run" / "model.medseg3d").unlink()
    classes.write_text(classes.read_text().replace("case_4,healthy", "case_4,ill"))
    with pytest.raises(RunError, match=r"1 cases have changed .* such as case_4"):
        medseg3d.fit(data, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"network": "unet3d"}, ConfigError, "network 'unet3d' learns no classes; choose one"),
        (
            {"dims": 2, "network": "ynet_2d", "patch_size": None},
            ConfigError,
            "classes are learned from whole volumes; leave out --dims 2 .* or classes",
        ),
        ({"classes": "absent.csv"}, DataError, "absent.csv cannot be read as CSV"),
        ({"classes": None}, DataError, r"2 images \(case_4, case_5\) without label map"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    options: dict[str, Any], kind: type[Exception], told: str, data: Path, tmp_path: Path
) -> None:
    given = OPTIONS | {"classes": data / "classes.csv"} | options
    with pytest.raises(kind, match=told) as refused:
        medseg3d.fit(data, out=tmp_path / "run", cache=tmp_path / "cache", **given)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_splits_may_not_hold_out_what_lacks_a_mask_alone(data: Path, tmp_path: Path) -> None:
    splits = tmp_path / "splits.json"
    train = [f"case_{n}" for n in range(4)]
    splits.write_text(json.dumps([{"train": train, "val": list(WITHOUT_MASK)}]))
    with pytest.raises(DataError, match="fold 0 holds out only cases without a label map"):
        medseg3d.fit(
            data,
            out=tmp_path / "run",
            cache=tmp_path / "cache",
            classes=data / "classes.csv",
            splits=splits,
            **OPTIONS,
        )


def test_one_training_case_at_least_must_have_a_mask(data: Path, tmp_path: Path) -> None:
    splits = tmp_path / "splits.json"
    val = [f"case_{n}" for n in range(4)]
    splits.write_text(json.dumps([{"train": list(WITHOUT_MASK), "val": val}]))
    given = OPTIONS | {"classes": data / "classes.csv", "splits": splits}
    with pytest.raises(DataError, match="none of the 2 training cases has a label map"):
        medseg3d.fit(data, out=tmp_path / "run", cache=tmp_path / "cache", **given)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_the_labels_of_a_case_without_a_mask_do_not_depend_on_its_voxels(run: medseg3d.Run) -> None:
    counts = [
        json.loads(path.read_text())["label_counts"]
        for path in (run.folder.parent / "cache").glob("*/facts.json")
    ]
    assert len(counts) == 6
    assert sum(not np.any(each) for each in counts) == len(WITHOUT_MASK)
