"""Post-processing: chosen on held-out cases, carried by the bundle, applied by predict."""

import csv
import json
import logging
import math
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner

import medseg3d
from medseg3d import api
from medseg3d.api.fitting import final_validation
from medseg3d.api.fitting.cleaning_choice import Score, candidates, outcomes_of, tried
from medseg3d.api.fitting.cleaning_table import CHOSEN, Outcome, read_choice, tell, write_table
from medseg3d.api.fitting.final_validation import FinalValidation
from medseg3d.api.predicting.cleaning_rules import rules_of
from medseg3d.api.predicting.prediction_batch import Batch, predict_job
from medseg3d.bundle import Bundle, load_network, read_bundle, save_bundle
from medseg3d.bundle.description import from_json, to_json
from medseg3d.bundle.refusal import UnfitError
from medseg3d.cli import app
from medseg3d.config import Cleaning, FitConfig, PredictConfig, validated
from medseg3d.data.canonical import CanonicalCase
from medseg3d.data.cases import Case
from medseg3d.data.layouts import find_cases
from medseg3d.errors import ConfigError
from medseg3d.geometry.grid import Grid
from medseg3d.types import LabelMap

LARGEST = Cleaning(keep_largest=True)
SMALL_PARTS = Cleaning(min_volume_mm3=10)
RULES = (Cleaning(), SMALL_PARTS, LARGEST)
EMPTY: Score = (math.nan, math.nan)
VALUE = 7
SHAPE = (14, 12, 10)


# The choice


def verdicts(*cases: Sequence[Score]) -> list[str]:
    """Of the three rules for one label, from their scores in some cases."""
    found = outcomes_of([{1: scores} for scores in cases], RULES, {1: "liver"})
    assert [outcome.rule for outcome in found] == list(RULES)
    return [outcome.verdict for outcome in found]


BETTER = [(0.8, 5.0), (0.9, 4.0), (0.95, 4.0)]


def test_the_best_rule_is_chosen_and_the_table_says_why() -> None:
    outcomes = outcomes_of(
        [{1: BETTER}, {1: [(0.7, 3.0), (0.7, 3.0), (0.71, 2.0)]}, {1: [EMPTY] * 3}],
        RULES,
        {1: "liver"},
    )
    assert [each.verdict for each in outcomes] == [
        "as it is",
        "another is as good or better",
        CHOSEN,
    ]
    best = outcomes[2]
    assert (best.cases, best.better, best.worse) == (2, 2, 0)
    assert best.dice == pytest.approx(0.83)
    assert best.dice_change == pytest.approx(0.08)
    assert best.hausdorff_95_mm == pytest.approx(3)
    assert best.hausdorff_95_change_mm == pytest.approx(-1)


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        # of equally good ones, that which changes least
        ([[(0.8, 5), (0.9, 4), (0.90009, 4)]] * 2, CHOSEN),
        ([[(0.8, 5), (0.9, 4), (0.9002, 4)]] * 2, "another is as good or better"),
        ([BETTER], "too few cases"),
        ([BETTER, [EMPTY] * 3], "too few cases"),
        ([[(0.8, 5), (0.8009, 5), (0.8, 5)]] * 2, "Dice is not better"),
        ([[(0.8, 5), (0.801001, 5), (0.8, 5)]] * 2, CHOSEN),
        ([[(0.8, 5), (0.9, 5.49), (0.8, 5)]] * 2, CHOSEN),
        ([[(0.8, 5), (0.9, 5.51), (0.8, 5)]] * 2, "HD95 is worse"),
        ([[(0.8, 0), (0.9, 0.01), (0.8, 0)]] * 2, "HD95 is worse"),
        (
            [[(0.8, 5), (0.9, 5), (0.8, 5)], *[[(0.8, 5), (0.79, 5), (0.8, 5)]] * 2],
            "more cases are worse than better",
        ),
        (
            [[(0.8, 5), (0.9, 5), (0.8, 5)], [(0.8, 5), (0.79, 5), (0.8, 5)]],
            "as many worse as better",
        ),
    ],
)
def test_a_rule_is_taken_only_if_it_is_clearly_better(
    cases: list[Sequence[Score]], expected: str
) -> None:
    assert verdicts(*cases)[1] == expected


def test_a_label_that_no_case_has_stays_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = outcomes_of([{1: [EMPTY] * 3}], RULES, {1: "liver"})
    assert [each.verdict for each in outcomes] == ["as it is", *["too few cases"] * 2]
    with caplog.at_level(logging.INFO, "medseg3d"):
        tell(outcomes)
    assert caplog.messages == [
        "post-processing: none, as nothing that was tried makes a label better"
    ]
    write_table(outcomes, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == (
        "liver,no,0.0,no,0,0,0,,,,,as it is"
    )


def test_the_rules_to_try_go_from_nothing_to_most() -> None:
    found = candidates([30, 10, 30.0])
    assert found[0] == Cleaning()
    assert found[1] == Cleaning(fill_holes=True)
    assert [rule.min_volume_mm3 for rule in found[2:6]] == [10, 10, 30, 30]
    assert found[-2:] == (LARGEST, Cleaning(keep_largest=True, fill_holes=True))
    assert len(found) == len(set(found)) == 8


def box(*, label: int = 1, low: int = 2, high: int = 8) -> LabelMap:
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[low:high, low:high, low:high] = label
    return labels


GRID = Grid((12, 12, 12), np.diag([1.0, 2.0, 0.5, 1.0]))


def scores_of(prediction: LabelMap, reference: LabelMap, *rules: Cleaning) -> list[Score]:
    before = prediction.copy()
    found = tried(prediction, reference, GRID, values=[1], rules=[Cleaning(), *rules])
    np.testing.assert_array_equal(prediction, before)
    return list(found[1])


def test_a_speck_costs_what_it_costs() -> None:
    reference, prediction = box(), box()
    prediction[11, 11, 11] = 1
    raw, cleaned = scores_of(prediction, reference, LARGEST)
    assert raw == pytest.approx((2 * 216 / 433, 0))
    assert cleaned == (1, 0)


def test_a_hole_of_the_label_is_tried_too_and_that_of_another_is_not() -> None:
    reference, prediction = box(), box()
    prediction[4, 4, 4], prediction[5, 5, 5] = 0, 2
    raw, filled = scores_of(prediction, reference, Cleaning(fill_holes=True))
    assert raw[0] == pytest.approx(2 * 214 / 430)
    assert filled[0] == pytest.approx(2 * 215 / 431)


def test_a_false_alarm_that_vanishes_counts_as_right() -> None:
    prediction = box(low=3, high=5)
    raw, kept, gone = scores_of(prediction, box(label=2), LARGEST, Cleaning(min_volume_mm3=9))
    diagonal_mm = math.sqrt(12**2 + 24**2 + 6**2)
    assert raw == kept == pytest.approx((0, diagonal_mm))
    assert gone == (1, 0)


def test_a_structure_that_vanishes_counts_as_missed() -> None:
    raw, gone = scores_of(box(), box(), Cleaning(min_volume_mm3=217))
    assert raw == (1, 0)
    assert gone == pytest.approx((0, math.sqrt(12**2 + 24**2 + 6**2)))
    assert np.isnan(scores_of(box(label=3), box(label=2), LARGEST)).all()


def test_a_rule_that_harms_a_region_is_not_taken() -> None:
    """A speck of another label in the middle of a region: without it the region has a hole."""
    reference, prediction = box(label=2), box(label=2)
    for labels in (reference, prediction):
        labels[:, :, 9:11] = 1
    prediction[5, 5, 5] = 1
    rules = [Cleaning(), LARGEST]
    for regions, expected in ({}, CHOSEN), ({"whole": (1, 2)}, "a region that holds it is worse"):
        found = tried(
            prediction, reference, GRID, values=[1], rules=rules, regions=list(regions.values())
        )
        outcomes = outcomes_of([found, found], rules, {1: "edema"})
        assert outcomes[1].verdict == expected
        if regions:
            assert [score[2] for score in found[1]] == [1, pytest.approx(1 - 1 / (2 * 504 - 1))]
    alone = tried(prediction, reference, GRID, values=[1, 3], rules=rules, regions=[(1,), (2, 3)])
    assert outcomes_of([alone, alone], rules, {1: "edema", 3: "core"})[1].verdict == CHOSEN
    assert np.isnan(alone[3]).all()


maps = hnp.arrays(np.uint8, (4, 5, 6), elements=st.sampled_from([0, 0, 1, 1, 3]))


@settings(max_examples=60)
@given(maps, maps, st.booleans())
def test_each_rule_is_measured_on_the_whole_label_map(
    prediction: LabelMap, reference: LabelMap, as_fortran: bool
) -> None:
    from medseg3d.inference.cleaning import clean
    from medseg3d.metrics.overlap import dice
    from medseg3d.metrics.surface import hausdorff_95

    if as_fortran:
        prediction = np.asfortranarray(prediction)
    grid = Grid((4, 5, 6), np.diag([2.0, 1.0, 0.7, 1.0]))
    rules = candidates([2, 3, 9])
    found = tried(prediction, reference, grid, values=[1, 2, 3], rules=rules)
    assert np.isnan(np.array(found[2])).all()
    for value in (1, 3):
        expected = reference == value
        for rule, score in zip(rules, found[value], strict=True):
            labels = prediction.copy()
            clean(labels, {value: rule}, voxel_mm3=1.4)
            ours = labels == value
            if ours.any() or expected.any():
                distance = hausdorff_95(ours, expected, grid.spacing)
                worst = float(np.linalg.norm([8, 5, 4.2]))
                assert score == pytest.approx((dice(ours, expected), min(distance, worst)))
            else:
                had = (prediction == value).any()
                assert score == (1, 0) if had else np.isnan(score).all()


def test_the_choice_is_read_from_the_table(tmp_path: Path) -> None:
    numbers: dict[str, Any] = {"cases": 3, "better": 2, "worse": 1}
    numbers |= {"dice": 0.9, "dice_change": 0.1}
    numbers |= {"hausdorff_95_mm": 1 / 3, "hausdorff_95_change_mm": -2.0}
    rules = {
        'lobe, "left"': Cleaning(keep_largest=True, fill_holes=True),
        "лёгкое": Cleaning(min_volume_mm3=12.5),
    }
    outcomes = [
        Outcome(label=label, **rule.model_dump(), **numbers, verdict=verdict)
        for label in rules
        for rule, verdict in ((Cleaning(), "as it is"), (rules[label], CHOSEN), (LARGEST, "no"))
    ]
    write_table(outcomes, tmp_path / "t.csv")
    assert read_choice(tmp_path / "t.csv") == rules
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[1]["hausdorff_95_mm"] == "0.333333"


# The end of fit, with a network that finds what is bright and a speck


@dataclass
class Stub:
    """In the place of Predictor; counts what is asked of it."""

    labeled: Counter[str] = field(default_factory=Counter)

    def open(self, *_: Path, precision: str, **__: Any) -> SimpleNamespace:
        def segment(case: CanonicalCase) -> LabelMap:
            self.labeled[precision] += 1
            labels = np.where(case.image[0] > 150, VALUE, 0).astype(np.uint8)
            labels[12, 10, 8] = VALUE
            return labels

        return SimpleNamespace(segment=segment, network=SimpleNamespace(backend="stubbed"))


def write_case(folder: Path, number: int) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:7, 2:7, 2:6] = VALUE  # 100 voxels
    image = np.random.default_rng(number).normal(100, 5, SHAPE) + 100 * (labels > 0)
    for name, array in (("images", image.astype(np.int16)), ("labels", labels)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        volume = nib.Nifti1Image(array, np.eye(4))
        volume.header.set_xyzt_units("mm")
        nib.save(volume, folder / name / f"box_{number}.nii.gz")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(4):
        write_case(folder, number)
    return folder


@pytest.fixture
def cases(data: Path) -> tuple[Case, ...]:
    return find_cases(data).cases[:3]


Make = Callable[..., FinalValidation]
WITH_SPECK = 200 / 201


@pytest.fixture
def final(cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    (tmp_path / "validation").mkdir()

    def make(stub: Stub, **options: Any) -> FinalValidation:
        monkeypatch.setattr(final_validation, "Predictor", stub)
        return FinalValidation(
            config=FitConfig(data=tmp_path, **options),
            plan=SimpleNamespace(  # type: ignore[arg-type]
                foreground={VALUE: "box"}, ignore_label=None, regions={}, region_numbers={}
            ),
            cases=cases,
            model=tmp_path / "best.medseg3d",
            folder=tmp_path / "validation",
            device=torch.device("cpu"),
        )

    return make


def finish(final: FinalValidation) -> list[float]:
    """The Dice of each case, after post-processing."""
    verdict = final.verdict("fp32", final.cases)
    result = final.scores(verdict.accepted, final.cleaning(verdict.accepted))
    return [row.scores["dice"] for row in result.rows]


def test_what_improves_the_held_out_cases_is_chosen_and_done(
    final: Make, caplog: pytest.LogCaptureFixture
) -> None:
    stub = Stub()
    here = final(stub)
    with caplog.at_level(logging.INFO, "medseg3d"):
        assert finish(here) == [1.0] * 3
    assert here.cleaning("fp32") == {"box": SMALL_PARTS}
    assert stub.labeled == {"fp32": 3}, "nothing is predicted twice"
    assert (
        "post-processing of box: parts under 10 mm3 removed (mean Dice 1.0000 instead of 0.9950 "
        "on 3 cases)" in caplog.text
    )
    names = [f"box_{number}.nii.gz" for number in range(3)]
    left = sorted(path.name for path in here.folder.iterdir())
    assert left == ["arithmetic.json", *names, "postprocessing.csv", "scores.csv", "scores.json"]
    for name in names:
        labels = np.asarray(nib.load(here.folder / name).dataobj)
        assert np.count_nonzero(labels == VALUE) == 100
        assert labels[12, 10, 8] == 0
    with (here.folder / "postprocessing.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    assert {row["cases"] for row in rows} == {"3"}
    assert float(rows[0]["dice"]) == pytest.approx(WITH_SPECK, abs=1e-6)
    assert [row["verdict"] for row in rows].count(CHOSEN) == 1


def test_without_post_processing_nothing_is_tried(final: Make) -> None:
    stub = Stub()
    here = final(stub, postprocess="none")
    assert finish(here) == pytest.approx([WITH_SPECK] * 3)
    assert not (here.folder / "postprocessing.csv").exists()
    assert stub.labeled == {"fp32": 3}


def test_volumes_may_be_given(final: Make) -> None:
    here = final(Stub(), postprocess_volumes_mm3=(1.0, 101.0))
    assert finish(here) == [1.0] * 3
    assert here.cleaning("fp32") == {"box": LARGEST}, "1 mm3 keeps the speck, 101 mm3 nothing"


@pytest.mark.parametrize("at", range(1, 7))
def test_interrupted_anywhere_it_goes_on_to_the_same_end(
    final: Make, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    real, written = final_validation.write_labels, []

    def write(path: Path, *rest: Any) -> None:
        written.append(path)
        if len(written) == at:
            raise KeyboardInterrupt
        real(path, *rest)

    stub = Stub()
    monkeypatch.setattr(final_validation, "write_labels", write)
    with pytest.raises(KeyboardInterrupt):
        finish(final(stub))
    again = final(stub)
    assert finish(again) == [1.0] * 3
    assert finish(again) == [1.0] * 3, "once more after all was written"
    assert stub.labeled["fp32"] == (4 if at <= 3 else 3), "what was written is not predicted again"
    assert not (again.folder / "fp32").exists()


def test_another_arithmetic_is_tried_anew(final: Make) -> None:
    assert finish(final(Stub())) == [1.0] * 3
    stub = Stub()
    again = final(stub)
    again.verdict("fp16", [])
    assert not (again.folder / "postprocessing.csv").exists()
    assert again.cleaning("fp16") == {"box": SMALL_PARTS}
    assert stub.labeled == {"fp16": 3}


def test_label_maps_that_were_cleaned_in_an_unknown_way_are_made_anew(final: Make) -> None:
    here = final(Stub())
    finish(here)
    (here.folder / "postprocessing.csv").unlink()
    stub = Stub()
    assert finish(final(stub)) == [1.0] * 3
    assert stub.labeled == {"fp32": 3}


def test_fit_writes_the_choice_into_the_bundle(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(final_validation, "Predictor", Stub())
    run = medseg3d.fit(
        data,
        out=tmp_path / "run",
        cache=tmp_path / "cache",
        **{"epochs": 1, "steps_per_epoch": 1, "folds": 2, "batch_size": 1, "width": 4},
        **{"patch_size": (8, 8, 8), "device": "cpu", "precision": "fp32"},
    )
    bundle = read_bundle(run.bundle)
    assert bundle.cleaning == {"label 7": SMALL_PARTS}
    assert bundle.scores == {"label 7": 1.0, "mean": 1.0}, "those of what predict will give"
    assert (run.folder / "validation" / "postprocessing.csv").is_file()
    told = {row["what"]: row["value"] for row in api.info_rows(api.info(run.folder))}
    assert told["post-processing"] == "label 7: parts under 10 mm3 removed"


# The bundle


def bundle_of(model: Path) -> Bundle:
    return read_bundle(model)


def test_a_bundle_without_the_field_is_read(tiny_model: Path) -> None:
    stored = json.loads(to_json(bundle_of(tiny_model)))
    assert stored.pop("cleaning") == {}
    assert from_json(json.dumps(stored).encode()).cleaning == {}


def test_a_bundle_keeps_its_rules(tiny_model: Path) -> None:
    rules = {"core": Cleaning(min_volume_mm3=12.5), "shell": LARGEST}
    bundle = bundle_of(tiny_model).model_copy(update={"cleaning": rules})
    assert from_json(to_json(bundle)) == bundle


@pytest.mark.parametrize(
    "cleaning",
    [
        {"liver": {}},
        {"background": {}},
        {"core": {"min_volume_mm3": -1}},
        {"core": {"min_volume_mm3": "5"}},
        {"core": {"keep_largest": 1}},
        {"core": {"erode": True}},
        [],
    ],
)
def test_rules_that_cannot_be_are_refused(tiny_model: Path, cleaning: Any) -> None:
    stored = json.loads(to_json(bundle_of(tiny_model))) | {"cleaning": cleaning}
    with pytest.raises(UnfitError, match=r"cleaning|other types"):
        from_json(json.dumps(stored).encode())


# Predict


RULE = Cleaning(keep_largest=True, fill_holes=True)


@pytest.fixture(scope="module")
def cleaning_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_rules(tiny_model, tmp_path_factory.mktemp("model") / "c.medseg3d", core=RULE)


def with_rules(model: Path, target: Path, **rules: Cleaning) -> Path:
    """The same model with other rules."""
    bundle = read_bundle(model).model_copy(update={"cleaning": rules})
    save_bundle(target, bundle, load_network(model))
    return target


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth noise, oblong voxels, stored in another order than RAS."""
    path = tmp_path_factory.mktemp("images") / "case.nii"
    noise = np.random.default_rng(0).normal(100, 30, (24, 22, 20)).astype(np.int16)
    affine = np.array([[0, -1.2, 0, 9], [0, 0, 1.5, -3], [1.0, 0, 0, 0], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(noise, affine), path)
    return path


def labels_of(path: Path) -> LabelMap:
    return np.asarray(nib.load(path).dataobj)


def predicted(image: Path, model: Path, out: Path, **options: Any) -> LabelMap:
    options = {"precision": "fp32", "threads": 1} | options
    medseg3d.predict(image, model=model, out=out / "p.nii", overwrite=True, **options)
    return labels_of(out / "p.nii")


@pytest.fixture(scope="module")
def raw(image: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> LabelMap:
    return predicted(image, tiny_model, tmp_path_factory.mktemp("raw"))


def cleaned(labels: LabelMap, **rules: Cleaning) -> LabelMap:
    from medseg3d.inference.cleaning import clean

    result = labels.copy()
    values = {"core": 3, "shell": 7}
    clean(result, {values[name]: rule for name, rule in rules.items()}, voxel_mm3=1.8)
    return result


def test_predict_cleans_as_the_bundle_says_and_tells(
    image: Path,
    raw: LabelMap,
    cleaning_model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "medseg3d"):
        [found] = medseg3d.predict(
            [image.parent], model=cleaning_model, out=tmp_path / "o", precision="fp32"
        )
    expected = cleaned(raw, core=RULE)
    np.testing.assert_array_equal(labels_of(found.path), expected)
    removed = np.count_nonzero((raw == 3) & (expected != 3)) * 0.0018
    filled = np.count_nonzero((raw != 3) & (expected == 3)) * 0.0018
    assert removed > 0
    assert found.volumes_ml["core"] == pytest.approx(np.count_nonzero(expected == 3) * 0.0018)
    assert "post-processing: core: only the largest part kept, holes filled" in caplog.text
    assert f"case case: post-processing: core {removed:.4g} mL removed" in caplog.text
    content = json.loads((tmp_path / "o" / "predictions.json").read_text())
    assert content["options"]["postprocess"] == "auto"
    assert content["options"]["cleaning"] == {}
    [record] = content["cases"].values()
    assert record["cleaning"] == {
        "core": {
            "rule": "only the largest part kept, holes filled",
            "removed_ml": pytest.approx(removed),
            "filled_ml": pytest.approx(filled),
        }
    }
    assert "clean" in record["seconds"]


def test_none_leaves_labels_as_the_network_gives_them(
    image: Path, raw: LabelMap, cleaning_model: Path, tmp_path: Path
) -> None:
    found = predicted(image, cleaning_model, tmp_path, postprocess="none")
    np.testing.assert_array_equal(found, raw)


@pytest.mark.parametrize("postprocess", ["auto", "none"])
def test_rules_that_are_given_go_before_those_of_the_bundle(
    image: Path, raw: LabelMap, cleaning_model: Path, tmp_path: Path, postprocess: str
) -> None:
    given = {"shell": {"min_volume_mm3": 20.0}}
    options = {"postprocess": postprocess, "cleaning": given}
    found = predicted(image, cleaning_model, tmp_path, **options)
    kept = {"core": RULE} if postprocess == "auto" else {}
    expected = cleaned(raw, shell=Cleaning(min_volume_mm3=20), **kept)
    assert (expected != cleaned(raw, **kept)).any()
    np.testing.assert_array_equal(found, expected)
    untouched = predicted(image, cleaning_model, tmp_path, cleaning={"core": {}})
    np.testing.assert_array_equal(untouched, raw)


def test_probabilities_and_uncertainty_stay_as_they_are(
    image: Path, tiny_model: Path, cleaning_model: Path, tmp_path: Path
) -> None:
    for name, model in (("a", tiny_model), ("b", cleaning_model)):
        (tmp_path / name).mkdir()
        options = {"probabilities": True, "uncertainty": True}
        predicted(image, model, tmp_path / name, **options)
    for kind in ("probabilities", "uncertainty"):
        files = [next((tmp_path / name).glob(f"*{kind}*")).read_bytes() for name in "ab"]
        assert files[0] == files[1]
    assert (tmp_path / "a" / "p.nii").read_bytes() != (tmp_path / "b" / "p.nii").read_bytes()


def test_an_array_is_cleaned_too(cleaning_model: Path, tiny_model: Path) -> None:
    array = np.random.default_rng(1).normal(100, 30, (18, 18, 18)).astype(np.float32)
    affine = np.diag([-1.0, 1.2, 1.5, 1.0])
    options = {"affine": affine, "precision": "fp32", "threads": 1}
    plain = medseg3d.predict(array, model=tiny_model, **options)
    expected = cleaned(plain, core=RULE)
    assert (expected != plain).any()
    np.testing.assert_array_equal(
        medseg3d.predict(array, model=cleaning_model, **options), expected
    )


def test_of_a_region_only_what_is_in_it_counts(
    image: Path, tiny_model: Path, cleaning_model: Path, tmp_path: Path
) -> None:
    inside = np.zeros((24, 22, 20), np.uint8)
    inside[4:20, 3:18, 5:17] = 1
    inside[10, 10, 8:12] = 0
    volume = nib.Nifti1Image(inside, nib.load(image).affine)
    nib.save(volume, tmp_path / "mask.nii")
    options = {"roi_mask": tmp_path / "mask.nii"}
    plain = predicted(image, tiny_model, tmp_path, **options)
    expected = np.where(inside, cleaned(plain, core=RULE), 0)
    assert (expected != plain).any()
    np.testing.assert_array_equal(predicted(image, cleaning_model, tmp_path, **options), expected)


def test_other_rules_make_a_finished_case_unfinished(
    image: Path, cleaning_model: Path, tmp_path: Path
) -> None:
    def again(**options: Any) -> int:
        return len(medseg3d.predict([image.parent], model=cleaning_model, out=tmp_path, **options))

    assert again() == 1
    assert again() == 0
    assert again(postprocess="none", overwrite=True) == 1
    assert again(postprocess="none") == 0
    given = {"core": {"keep_largest": True}}
    assert again(postprocess="none", cleaning=given, overwrite=True) == 1
    assert again(postprocess="none", cleaning=given) == 0


def test_a_worker_process_gets_the_rules(
    image: Path, raw: LabelMap, cleaning_model: Path, tmp_path: Path
) -> None:
    config = validated(
        PredictConfig,
        {
            **{"inputs": [image], "model": cleaning_model, "out": tmp_path / "p.nii"},
            **{"precision": "fp32", "threads": 1, "cleaning": {"shell": LARGEST}},
        },
    )
    assert hash(config) != hash(config.model_copy(update={"cleaning": {}}))
    batch = Batch.found(config)
    [job] = batch.jobs()
    record = predict_job(pickle.loads(pickle.dumps(config)), batch.digests, job)
    assert set(record.cleaning) == {"core", "shell"}
    expected = cleaned(raw, core=RULE, shell=LARGEST)
    np.testing.assert_array_equal(labels_of(tmp_path / "p.nii"), expected)


def test_a_label_that_the_model_does_not_have_is_refused_before_the_work(
    image: Path, cleaning_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'liver', which is no label .* are core, shell"):
        predicted(image, cleaning_model, tmp_path, cleaning={"liver": LARGEST})
    with pytest.raises(ConfigError, match="is no label"):
        medseg3d.predict(
            np.zeros((9, 9, 9)),
            affine=np.eye(4),
            model=cleaning_model,
            cleaning={"background": LARGEST},
        )
    assert not list(tmp_path.iterdir())


def test_several_models_clean_as_all_of_them_would(tiny_model: Path) -> None:
    bundle = bundle_of(tiny_model)

    def with_cleaning(**rules: Cleaning) -> Bundle:
        return bundle.model_copy(update={"cleaning": rules})

    config = PredictConfig(inputs=(Path("a"),))
    one = with_cleaning(core=Cleaning(min_volume_mm3=30, fill_holes=True), shell=LARGEST)
    two = with_cleaning(core=Cleaning(min_volume_mm3=10, fill_holes=True), shell=SMALL_PARTS)
    agreed = Cleaning(min_volume_mm3=10, fill_holes=True)
    assert rules_of(config, [one]) == {3: one.cleaning["core"], 7: LARGEST}
    assert rules_of(config, [one, two]) == rules_of(config, [two, one]) == {3: agreed}
    assert rules_of(config, [one, two, with_cleaning()]) == {}
    none = config.model_copy(update={"postprocess": "none"})
    assert rules_of(none, [one]) == {}


def test_the_command_takes_rules_from_a_file_and_from_settings(
    image: Path, raw: LabelMap, cleaning_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "o.yaml").write_text(
        "cleaning:\n  shell: {min_volume_mm3: 20}\nprecision: fp32\nthreads: 1\n"
    )
    words = ["predict", image, "-m", cleaning_model, "-o", tmp_path / "p.nii"]
    words += ["--postprocess", "none", "--config", tmp_path / "o.yaml"]
    words += ["--set", "cleaning.core.keep_largest=true"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    expected = cleaned(raw, shell=Cleaning(min_volume_mm3=20), core=LARGEST)
    np.testing.assert_array_equal(labels_of(tmp_path / "p.nii"), expected)
    words += ["--overwrite", "--set", "cleaning.core.keep_biggest=true"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code in (1, 2)
    assert "did you mean" in result.output or "keep_biggest" in result.output
