"""Whether bf16 is as good as fp32: found out at the end of fit, kept, and acted upon."""

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import medseg3d
from medseg3d import api
from medseg3d.api.fitting import final_validation, verdict
from medseg3d.api.fitting.final_validation import FinalValidation
from medseg3d.api.fitting.validating import dice_by_label
from medseg3d.api.fitting.verdict import Verdict, dice_change, evenly, is_comparable, judged
from medseg3d.bundle import read_bundle
from medseg3d.config import FitConfig
from medseg3d.data.canonical import CanonicalCase
from medseg3d.data.cases import Case
from medseg3d.data.layouts import find_cases
from medseg3d.data.split import deal_folds
from medseg3d.errors import ModelError
from medseg3d.types import LabelMap

CPU = torch.device("cpu")
VALUE = 7
SHAPE = (14, 12, 10)


# Numbers


@given(
    st.integers(1, 4).flatmap(
        lambda labels: hnp.arrays(
            np.float64,
            st.tuples(st.just(2), st.integers(1, 5), st.just(labels)),
            elements=st.one_of(st.floats(0, 1), st.just(math.nan)),
        )
    )
)
def test_the_change_is_a_mean_over_labels_of_means_over_cases(
    dice: np.ndarray[Any, np.dtype[np.float64]],
) -> None:
    ours, theirs = dice.tolist()
    per_label = []
    for label in range(dice.shape[2]):
        pairs = [(a[label], b[label]) for a, b in zip(ours, theirs, strict=True)]
        known = [a - b for a, b in pairs if not (math.isnan(a) or math.isnan(b))]
        if known:
            per_label.append(sum(known) / len(known))
    change = dice_change(ours, theirs)
    if math.isnan(change):
        assert all(abs(each) < 1e-300 for each in per_label), "no label, or nothing found"
    else:
        assert change == pytest.approx(sum(per_label) / len(per_label), abs=1e-12)
    assert dice_change(theirs, ours) == pytest.approx(-change, abs=1e-12, nan_ok=True)


@given(
    hnp.arrays(np.uint16, (2, 4, 3, 5), elements=st.sampled_from([0, 1, 3, 500])),
    st.booleans(),
)
def test_dice_is_that_of_the_masks(pair: LabelMap, as_fortran: bool) -> None:
    ours, theirs = (np.asfortranarray(array) if as_fortran else array for array in pair)
    expected = []
    for label in (1, 3, 500, 9):
        a, b = ours == label, theirs == label
        size = np.count_nonzero(a) + np.count_nonzero(b)
        expected.append(2 * np.count_nonzero(a & b) / size if size else math.nan)
    found = dice_by_label(
        ours.astype(np.uint8) if 500 not in ours else ours, theirs, (1, 3, 500, 9)
    )
    assert found == pytest.approx(expected, nan_ok=True)


@given(st.lists(st.integers(), max_size=40), st.integers(0, 50))
def test_evenly_takes_what_is_there(items: list[int], count: int) -> None:
    places = evenly(range(len(items)), count)
    assert len(places) == min(count, len(items))
    steps = np.diff(places)
    assert not places or (places[0] == 0 and max(steps, default=1) - min(steps, default=1) <= 1)


@pytest.mark.parametrize(
    ("fast", "precision", "expected"),
    [
        ("bf16", "bf16", True),
        ("bf16", "fp32", False),
        ("fp32", "bf16", False),
        ("fp16", "fp16", True),
        ("bf16", "fp16", True),
    ],
)
def test_only_a_fast_arithmetic_is_compared(
    monkeypatch: pytest.MonkeyPatch, fast: str, precision: Any, expected: bool
) -> None:
    monkeypatch.setattr(verdict, "automatic_precision", lambda _: fast)
    assert is_comparable(precision, CPU) is expected


@pytest.mark.parametrize(
    ("dice", "accepted", "change", "told"),
    [
        (0.8002, "bf16", 0.0002, "bf16 changes the mean Dice by +0.0002 on 2 cases: accepted"),
        (0.79901, "bf16", -0.00099, "by -0.0010 on 2 cases: accepted"),
        (0.799, "fp32", -0.001, "by -0.0010 on 2 cases: refused, predictions are made in fp32"),
        (0.81, "fp32", 0.01, "by +0.0100 on 2 cases: refused"),
    ],
)
def test_the_limit_is_a_thousandth(
    caplog: pytest.LogCaptureFixture, dice: float, accepted: str, change: float, told: str
) -> None:
    with caplog.at_level(logging.INFO, "medseg3d"):
        found = judged("bf16", [[dice], [dice]], [[0.8], [0.8]])
    assert found == Verdict("bf16", accepted, change, 2)  # type: ignore[arg-type]
    assert told in caplog.text


def test_nothing_found_is_no_evidence(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "medseg3d"):
        found = judged("bf16", [[0.0, math.nan]], [[0.0, 0.5]])
    assert found == Verdict("bf16", "bf16")
    assert found.dice_changes == {}
    assert "bf16 is not compared with fp32" in caplog.text


def test_a_verdict_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = Verdict("fp16", "fp32", -0.25, 3)
    found.write(tmp_path / "verdict.json")
    assert Verdict.read(tmp_path / "verdict.json") == found
    assert Verdict.read(tmp_path / "none.json") is None


# Final validation, with a network that finds what is bright, and less of it in bf16


@dataclass
class Stub:
    """In the place of Predictor; counts what is asked of it."""

    lost_in_bf16: int = 0
    overflows_in_bf16: bool = False
    interrupt_at: int = 0
    opened: list[tuple[str, str]] = field(default_factory=list)
    labeled: Counter[str] = field(default_factory=Counter)

    def open(self, *_: Path, precision: str, backend: str, **__: Any) -> SimpleNamespace:
        self.opened.append((precision, backend))

        def segment(case: CanonicalCase) -> LabelMap:
            if self.labeled.total() + 1 == self.interrupt_at:
                self.interrupt_at = 0
                raise KeyboardInterrupt
            if precision == "bf16" and self.overflows_in_bf16:
                raise ModelError("values that are not finite numbers")
            self.labeled[precision] += 1
            labels = np.where(case.image[0] > 150, VALUE, 0).astype(np.uint8)
            if precision == "bf16":
                labels[tuple(np.argwhere(labels)[: self.lost_in_bf16].T)] = 0
            return labels

        return SimpleNamespace(segment=segment, network=SimpleNamespace(backend="stubbed"))


def write_case(folder: Path, number: int, *, is_empty: bool = False) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    if not is_empty:
        labels[2:7, 2:7, 2:6] = VALUE  # 100 voxels
    image = np.random.default_rng(number).normal(100, 5, SHAPE) + 100 * (labels > 0)
    for name, array in (("images", image.astype(np.int16)), ("labels", labels)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        volume = nib.Nifti1Image(array, np.eye(4))
        volume.header.set_xyzt_units("mm")
        nib.save(volume, folder / name / f"box_{number}.nii.gz")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, ...]:
    folder = tmp_path_factory.mktemp("data")
    for number in range(3):
        write_case(folder, number)
    return find_cases(folder).cases


Make = Callable[..., FinalValidation]


@pytest.fixture
def final(cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(verdict, "automatic_precision", lambda _: "bf16")
    (tmp_path / "validation").mkdir()

    def make(stub: Stub, **options: Any) -> FinalValidation:
        monkeypatch.setattr(final_validation, "Predictor", stub)
        return FinalValidation(
            config=FitConfig(data=tmp_path, **options),
            plan=SimpleNamespace(foreground={VALUE: "box"}, ignore_label=None, region_numbers={}),  # type: ignore[arg-type]
            cases=cases,
            model=tmp_path / "best.medseg3d",
            folder=tmp_path / "validation",
            device=CPU,
        )

    return make


def dice_of(final: FinalValidation, found: Verdict) -> list[float]:
    return [row.scores["dice"] for row in final.scores(found.accepted).rows]


def test_an_accepted_arithmetic_is_that_of_the_scores(final: Make, cases: tuple[Case, ...]) -> None:
    stub = Stub()
    here = final(stub)
    found = here.verdict("bf16", cases)
    assert found == Verdict("bf16", "bf16", 0.0, 3)
    assert dice_of(here, found) == [1.0] * 3
    assert stub.opened == [("bf16", "auto"), ("fp32", "stubbed")], "the same backend"
    assert stub.labeled == {"bf16": 3, "fp32": 3}, "compared cases are not predicted again"
    left = sorted(path.name for path in here.folder.iterdir())
    assert left == [
        "arithmetic.json",
        *(f"box_{number}.nii.gz" for number in range(3)),
        "scores.csv",
        "scores.json",
    ]


def test_a_network_that_bf16_makes_worse_is_validated_in_fp32(
    final: Make, cases: tuple[Case, ...], caplog: pytest.LogCaptureFixture
) -> None:
    stub = Stub(lost_in_bf16=1)
    here = final(stub)
    found = here.verdict("bf16", cases)
    worse = round(2 * 99 / 199 - 1, 6)
    assert found == Verdict("bf16", "fp32", worse, 3)
    assert found.dice_changes == {"bf16": worse}
    assert "bf16 changes the mean Dice by -0.0050 on 3 cases: refused" in caplog.text
    assert dice_of(here, found) == [1.0] * 3, "those of fp32"
    assert stub.labeled == {"bf16": 3, "fp32": 3}


def test_an_arithmetic_that_overflows_is_refused(final: Make, cases: tuple[Case, ...]) -> None:
    stub = Stub(overflows_in_bf16=True)
    here = final(stub)
    found = here.verdict("bf16", cases)
    assert found == Verdict("bf16", "fp32", -1.0, 3)
    assert dice_of(here, found) == [1.0] * 3


@pytest.mark.parametrize(
    ("options", "precision", "num_can_tell"),
    [({"evidence_cases": 0}, "bf16", 3), ({}, "fp32", 3), ({}, "bf16", 0)],
)
def test_without_evidence_the_arithmetic_stays(
    final: Make, cases: tuple[Case, ...], options: Any, precision: Any, num_can_tell: int
) -> None:
    stub = Stub(lost_in_bf16=5)
    here = final(stub, **options)
    found = here.verdict(precision, cases[:num_can_tell])
    assert found == Verdict(precision, precision)
    dice_of(here, found)
    assert stub.opened == [(precision, "auto")]
    assert stub.labeled == {precision: 3}


def test_some_cases_are_enough(final: Make, cases: tuple[Case, ...]) -> None:
    stub = Stub()
    here = final(stub, evidence_cases=2)
    found = here.verdict("bf16", cases)
    assert found.num_cases == 2
    assert len(dice_of(here, found)) == 3
    assert stub.labeled == {"bf16": 3, "fp32": 2}


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("at", range(1, 6))
def test_an_interrupted_validation_goes_on(
    final: Make, cases: tuple[Case, ...], at: int, lost: int
) -> None:
    stub = Stub(lost_in_bf16=lost, interrupt_at=at)
    here = final(stub, evidence_cases=2)
    with pytest.raises(KeyboardInterrupt):
        dice_of(here, here.verdict("bf16", cases))
    again = final(stub, evidence_cases=2, resume=True)
    found = again.verdict("bf16", cases)
    assert found.accepted == ("fp32" if lost else "bf16")
    assert dice_of(again, found) == [1.0] * 3
    assert stub.labeled.total() == 5, "nothing is predicted twice"
    assert dice_of(again, found) == [1.0] * 3, "once more after the table was written"


def test_resumed_on_a_processor_without_bf16_everything_is_fp32(
    final: Make, cases: tuple[Case, ...]
) -> None:
    here = final(Stub(lost_in_bf16=1))
    dice_of(here, here.verdict("bf16", cases))
    stub = Stub()
    again = final(stub, resume=True)
    found = again.verdict("fp32", cases)
    assert found == Verdict("fp32", "fp32")
    assert dice_of(again, found) == [1.0] * 3
    assert stub.labeled == {"fp32": 3}


# Fit


SMALL: dict[str, Any] = {
    "epochs": 1,
    "steps_per_epoch": 1,
    "folds": 2,
    "batch_size": 1,
    "patch_size": (8, 8, 8),
    "width": 4,
    "device": "cpu",
}


@pytest.mark.parametrize("lost", [0, 1])
def test_fit_writes_the_verdict_into_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    for number in range(4):
        write_case(tmp_path / "data", number)
    held_out = deal_folds(find_cases(tmp_path / "data").cases, folds=2)["0"].validation
    write_case(tmp_path / "data", int(held_out[0][-1]), is_empty=True)
    stub = Stub(lost_in_bf16=lost)
    monkeypatch.setattr(final_validation, "Predictor", stub)
    for module in ("device", "api.fitting.verdict"):
        monkeypatch.setattr(f"medseg3d.{module}.automatic_precision", lambda _: "bf16")
    run = medseg3d.fit(
        tmp_path / "data", out=tmp_path / "run", cache=tmp_path / "cache", evidence_cases=1, **SMALL
    )
    bundle = read_bundle(run.bundle)
    assert bundle.dice_changes == {"bf16": round(2 * 99 / 199 - 1, 6) if lost else 0.0}
    assert bundle.precision == ("fp32" if lost else "bf16")
    assert bundle.accepts("bf16") is not bool(lost)
    assert bundle.accepts("fp32") is True
    assert bundle.accepts("fp16") is None
    assert bundle.scores == {"label 7": 1.0, "mean": 1.0}
    told = {row["what"]: row["value"] for row in api.info_rows(api.info(run.folder))}["precision"]
    refused = "fp32, bf16 changes the mean Dice by -0.0050: refused"
    assert told == (refused if lost else "bf16, bf16 changes the mean Dice by +0.0000: accepted")
    assert stub.labeled == ({"bf16": 1, "fp32": 2} if lost else {"bf16": 2, "fp32": 1})
