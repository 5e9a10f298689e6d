"""What each check says about facts that are made up, so that every number is known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg3d.data.cases import Case, Dataset
from medseg3d.data.doctor import CHECKS
from medseg3d.data.doctor.facts import CaseFacts, ChannelFacts, Folding, Survey
from medseg3d.data.doctor.findings import Finding, Severity
from medseg3d.data.doctor.outliers import outliers
from medseg3d.data.doctor.structures import small_parts
from medseg3d.geometry.grid import Grid

NAMES = {0: "background", 1: "organ", 2: "tumor"}
USUAL = ChannelFacts(-1000.0, 1500.0, (-990.0, -100.0, 0.0, 100.0, 900.0))


def facts(name: str, **changes: Any) -> CaseFacts:
    case = Case(name, (Path(f"images/{name}.nii"),), Path(f"labels/{name}.nii"), name[:2])
    values: dict[str, Any] = {
        "case": case,
        "grid": Grid((50, 60, 40), np.diag([1.0, 1.0, 2.0, 1.0])),
        "num_channels": 1,
        "label_counts": {0: 900, 1: 80, 2: 20},
        "digest": name,
        "channels": (USUAL,),
        "label_means": {0: 0.0, 1: 50.0, 2: 80.0},
        "label_sds": {0: 300.0, 1: 20.0, 2: 20.0},
    }
    return CaseFacts(**values | changes)


def many(number: int = 12) -> list[CaseFacts]:
    return [facts(f"{n:02d}") for n in range(number)]


def found(code: str, them: list[CaseFacts], **changes: Any) -> list[Finding]:
    values: dict[str, Any] = {"label_names": NAMES, "channel_names": None} | changes
    root = values.pop("root", Path("set"))
    dataset = Dataset(root, "test", tuple(one.case for one in them), **values)
    return list(CHECKS[code](Survey(dataset, tuple(them), ())))


@pytest.mark.parametrize("code", list(CHECKS))
def test_a_sound_set_has_no_findings(code: str) -> None:
    assert found(code, many()) == []


@pytest.mark.parametrize("code", list(CHECKS))
def test_a_set_of_which_nothing_could_be_read_breaks_no_check(code: str) -> None:
    assert all(finding.code == "few-patients" for finding in found(code, []))


def test_below_the_number_that_outliers_need_one_note_says_so() -> None:
    (finding,) = found("few-cases", many(7))
    assert (finding.severity, finding.case) == (Severity.NOTE, None)
    assert "7 cases could be read; outliers are looked for from 8" in finding.message
    assert found("few-cases", many(8)) == []


def grid(*spacing: float, shape: tuple[int, int, int] = (50, 60, 40)) -> Grid:
    return Grid(shape, np.diag([*spacing, 1.0]))


def channel(**changes: Any) -> tuple[ChannelFacts]:
    return (replace(USUAL, **changes),)


@pytest.mark.parametrize(
    ("code", "changes", "severity", "says"),
    [
        ("channels", {"num_channels": 2}, "error", "has 2 channels, 11 other cases have 1"),
        ("file-oddity", {"notes": ("has no codes",)}, "warning", "has no codes"),
        ("image-constant", {"channels": channel(minimum=7, maximum=7)}, "warning", "is 7 every"),
        ("image-huge-values", {"channels": channel(maximum=1e30)}, "warning", r"reaches 1e\+30"),
        ("ct-not-hu", {"channels": channel(minimum=0, maximum=1)}, "warning", "from 0 to 1"),
        ("spacing-unlikely", {"grid": grid(1e-6, 1, 1)}, "error", "1e-06 x 1 x 1 mm"),
        ("spacing-outlier", {"grid": grid(1, 1, 7)}, "warning", "foot-head"),
        ("size-outlier", {"grid": grid(1, 1, 2, shape=(9, 60, 40))}, "warning", "over 9 mm"),
        ("orientation-outlier", {"grid": grid(-1, 1, 2)}, "note", "stored as LAS, most cases as"),
        (
            "intensity-outlier",
            {"channels": channel(percentiles=(-0.4, 0, 0, 0, 0.6))},
            "warning",
            "between -0.4 and 0.6",
        ),
        ("label-undeclared", {"label_counts": {0: 9, 5: 1}}, "error", r"values 5 \(1 voxel\)"),
        ("label-undeclared", {"label_counts": {0: 9, 255: 1}}, "error", "--map 255=1"),
        (
            "label-is-image",
            {"label_counts": dict.fromkeys(range(300), 1)},
            "error",
            r"300 values \(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 290 more\)",
        ),
        ("label-empty", {"label_counts": {0: 9}}, "warning", "background only"),
        ("label-full", {"label_counts": {1: 9}}, "warning", "no background"),
        ("label-turned", {"is_turned": True}, "note", "another order of axes"),
        (
            "label-intensity-outlier",
            {"label_means": {0: 0.0, 1: 300.0, 2: 80.0}},
            "warning",
            r"mean of 300 .* in label 1 \(organ\)",
        ),
        (
            "label-intensity-outlier",
            {"label_sds": {0: 0.0, 1: 120.0, 2: 20.0}},
            "warning",
            r"deviation of 120 in label 1 \(organ\)",
        ),
        (
            "label-volume-outlier",
            {"label_counts": {0: 900, 1: 80, 2: 20_000}},
            "warning",
            r"label 2 \(tumor\) has 40 mL",
        ),
    ],
)
def test_one_odd_case_among_others_is_named(
    code: str, changes: dict[str, Any], severity: str, says: str
) -> None:
    import re

    (finding,) = found(code, [*many(11), facts("odd", **changes)])
    assert (finding.code, finding.case, str(finding.severity)) == (code, "odd", severity)
    assert re.search(says, str(finding))


def named(*names: dict[int, str]) -> list[CaseFacts]:
    return [facts(f"{n}", label_names=each) for n, each in enumerate(names)]


def test_a_name_with_two_values_is_an_error_that_names_both_cases() -> None:
    finding, other = found("label-names", named({1: "Liver", 2: "tumor"}, {1: "tumor", 2: "liver"}))
    assert finding.severity is Severity.ERROR
    assert "'Liver' is label 1 in case 0 and label 2 in case 1" in str(finding)
    assert "'tumor' is label 2 in case 0 and label 1 in case 1" in str(other)
    (finding,) = found("label-names", named({1: "liver", 2: "tumor"}, {1: "tumor"}))
    assert "'tumor' is label 2 in case 0 and label 1 in case 1" in str(finding)


def test_two_names_of_a_value_are_a_warning() -> None:
    (finding,) = found("label-names", named({1: "liver"}, {1: "Liver"}, {1: "hepar"}))
    assert finding.severity is Severity.WARNING
    assert "label 1 is named 'liver' in case 0 and 'hepar' in case 2" in str(finding)


def test_names_that_say_nothing_clash_with_nothing() -> None:
    assert found("label-names", named({1: "Segment_1"}, {1: "liver"}, {1: "label 1"}, {})) == []
    nodes = {1: "node", 2: "node", 3: "Segment_1"}
    assert found("label-names", named(nodes, {1: "node", 4: "Segment_1"})) == []


def test_one_patient_is_too_few_to_fit() -> None:
    for number, severity in ((1, Severity.ERROR), (2, Severity.WARNING)):
        (finding,) = found("few-patients", many(number))
        assert finding.severity is severity


def test_few_cases_have_no_outliers_and_two_kinds_of_cases_neither() -> None:
    assert outliers({f"{n}": 1.0 for n in range(6)} | {"far": 9.0}) == {}
    halves = {f"{n}": 1.0 for n in range(12)} | {f"b{n}": 9.0 for n in range(8)}
    assert outliers(halves) == {}
    assert set(outliers({f"{n}": n / 100 for n in range(12)} | {"far": -9.0})) == {"far"}


def test_masks_of_255_only_are_a_warning_that_says_what_fit_learns() -> None:
    masks = [facts(f"{n:02d}", label_counts={0: 9, 255: 3}) for n in range(3)]
    masks.append(facts("empty", label_counts={0: 9}))
    told = found("label-255", masks, label_names=None)
    assert [f.severity for f in told] == [Severity.WARNING] * 3
    assert "fit would learn the value 255 as it is" in told[0].message
    assert found("label-255", masks) == []


@pytest.mark.parametrize(
    ("other", "example"),
    [({0: 9, 1: 3}, "--map 255=1"), ({0: 9, 2: 1}, "--map 255=2"), ({1: 9, 2: 1}, "255=VALUE")],
)
def test_masks_of_255_beside_small_values_are_an_error(other: dict[int, int], example: str) -> None:
    masks = [facts(f"{n:02d}", label_counts={0: 9, 255: 3}) for n in range(3)]
    told = found("label-255", [*masks, facts("zz", label_counts=other)], label_names=None)
    assert [(f.severity, f.case) for f in told] == [("error", one.case_id) for one in masks]
    assert example in str(told[0])


@pytest.mark.parametrize(
    ("counts", "example"),
    [
        ({0: 9, 1: 3, 5: 4}, "--map 5=2)"),
        ({0: 9, 5: 4}, "--map 5=VALUE)"),
        ({0: 9, 1: 3, 2: 1, 5: 4}, "--map 5=VALUE)"),
        ({0: 9, 1: 3, 5: 1, 6: 4}, "--map 5=VALUE)"),
        ({1: 3, 2: 1, 5: 4}, "--map 5=VALUE)"),
    ],
)
def test_an_undeclared_value_is_mapped_to_the_one_that_is_missing(
    counts: dict[int, int], example: str
) -> None:
    (finding,) = found("label-undeclared", [facts("a", label_counts=counts)])
    assert example in str(finding)


@pytest.mark.parametrize("code", [code for code in CHECKS if code != "label-is-image"])
@pytest.mark.parametrize("names", [None, NAMES])
def test_an_image_as_label_map_has_no_other_findings(
    code: str, names: dict[int, str] | None
) -> None:
    values = dict.fromkeys(range(1, 300), 1)
    image = facts("odd", label_counts=values, label_means=dict.fromkeys(values, 0.0))
    assert found(code, [*many(), image], label_names=names) == []


def test_a_lost_spacing_is_told_when_every_case_has_few_slices() -> None:
    flat = [facts(f"{n:02d}", grid=grid(1, 1, 1, shape=(200, 200, 10))) for n in range(3)]
    (finding,) = found("spacing-lost", flat)
    assert "200 x 200 x 10 voxels" in finding.message
    assert found("spacing-lost", [*flat, facts("zz")]) == []
    cubes = [facts(f"{n:02d}", grid=grid(1, 1, 1, shape=(35, 50, 35))) for n in range(3)]
    assert found("spacing-lost", cubes) == []


def test_duplicates_matter_when_the_patients_differ() -> None:
    twins = [*many(10), facts("pa", digest="same"), facts("pb", digest="same")]
    (finding,) = found("image-duplicate", twins)
    assert finding.severity is Severity.WARNING
    assert "cases pa, pb have the same image and may leak" in finding.message
    visits = [*many(10), facts("px1", digest="same"), facts("px2", digest="same")]
    (finding,) = found("image-duplicate", visits)
    assert finding.severity is Severity.NOTE


def test_a_label_of_one_fold_and_one_of_no_case_are_named() -> None:
    them = [replace(one, label_counts={0: 9, 1: 1}) for one in many()]
    (absent,) = found("label-absent", them)
    assert absent.severity is Severity.ERROR
    assert "label 2 (tumor) is declared but in no case" in absent.message
    assert "remove it from dataset.json or add cases" in str(absent)
    dataset = Dataset(
        Path("set"), "test", (*(one.case for one in them), facts("t").case), NAMES, None
    )
    (unsure,) = CHECKS["label-absent"](Survey(dataset, tuple(them), ()))
    assert unsure.severity is Severity.WARNING  # it may be in the one that could not be read
    (wrong,) = found("label-absent", [*them, facts("odd", label_counts={0: 9, 5: 1})])
    assert wrong.severity is Severity.WARNING  # it may be what is called 5 there
    assert "correct the other label maps first" in str(wrong)
    (single,) = found("label-in-one-fold", [*them, facts("zz")])
    assert "label 2 (tumor) is only in 1 case (zz), in fold" in single.message


def test_folds_that_are_given_are_those_that_are_told() -> None:
    them = [replace(one, label_counts={0: 9, 1: 1}) for one in many()]
    dataset = Dataset(Path("set"), "test", tuple(one.case for one in them), NAMES, None)

    def told(num_held_out: int) -> list[str]:
        fold_of = {one.case_id: "Oslo" for one in them[:num_held_out]}
        survey = Survey(dataset, tuple(them), (), folding=Folding(given=fold_of))
        return [finding.message for finding in CHECKS["label-in-one-fold"](survey)]

    assert told(2) == []  # the others have the label too and are always learned from
    (all_in_one,) = told(len(them))
    assert "all in fold Oslo" in all_in_one


def test_a_given_split_with_a_patient_on_both_sides_is_told(tmp_path: Path) -> None:
    folds = [
        {"train": ["aa1", "bb1"], "val": ["cc1"]},
        {"train": ["aa1", "bb1"], "val": ["aa2", "gone"]},
    ]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    them = [facts(name) for name in ("aa1", "aa2", "bb1", "cc1")]
    both, unknown = found("patient-in-two-folds", them, root=tmp_path)
    assert "fold 1 trains on and validates 1 patient (aa)" in both.message
    assert "fold 1 names 1 case (gone)" in unknown.message
    for text in ("{", "[]", "3", '[{"train": 3}]', '["a"]'):
        (tmp_path / "splits_final.json").write_text(text)
        assert found("patient-in-two-folds", them, root=tmp_path) == []


def test_volumes_of_no_case_are_named(tmp_path: Path) -> None:
    for name in ("a.nii", "b.nii", "c.nii.gz", "._d.nii", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    case = Case("a", (tmp_path / "a.nii",), tmp_path / "b.nii", "a")
    (finding,) = found("file-unused", [facts("a", case=case)], root=tmp_path)
    assert "1 file (c.nii.gz)" in finding.message


def test_a_structure_that_the_common_spacing_erases_is_told_with_its_voxels() -> None:
    fine = grid(0.25, 0.25, 0.5, shape=(48, 48, 48))
    labels = np.zeros(fine.shape, np.uint8)
    labels[30:32, 30, 30] = 2
    labels[:20, :20, :20] = 1
    counts = {0: 48**3 - 8002, 1: 8000, 2: 2}
    odd = facts("odd", grid=fine, label_counts=counts, parts=small_parts(labels, counts))
    (finding,) = found("structure-erased", [*many(11), odd])
    assert (finding.severity, finding.case) == (Severity.WARNING, "odd")
    assert "1 part of label 2 (tumor) with 2 voxels" in finding.message
    assert "(30, 30, 30)" in finding.message
    assert "would vanish at the 1 x 1 x 2 mm" in finding.message
    assert "all of the label in this case" in finding.message


def test_where_a_structure_lies_is_told_in_the_order_of_the_file() -> None:
    """Axes stored as inferior, left, anterior: the common spacing is turned to them."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = -0.5, -0.25, 0.25, 1
    shape = (40, 44, 48)
    labels = np.zeros(shape, np.uint8)
    labels[5, 40, 12] = 2
    counts = {0: labels.size - 1, 2: 1}
    parts = small_parts(labels[1:, 2:, 3:], counts)
    box = (slice(1, 40), slice(2, 44), slice(3, 48))
    odd = facts("odd", grid=Grid(shape, affine), label_counts=counts, parts=parts, box=box)
    (finding,) = found("structure-erased", [*many(11), odd])
    assert "at voxel (5, 40, 12)" in finding.message


def test_a_grid_beyond_any_scanner_is_an_error() -> None:
    tiny = [facts(f"{n:02d}", grid=grid(2e-3, 2e-3, 2e-3)) for n in range(11)]
    (finding,) = found("structure-erased", [*tiny, facts("odd", grid=grid(9, 9, 9))])
    assert (finding.code, finding.case) == ("size-absurd", "odd")
    outlier = facts("odd", grid=grid(50, 50, 50, shape=(24, 28, 20)))
    (finding,) = found("structure-erased", [*many(11), outlier])
    assert (finding.code, finding.case, finding.severity) == ("size-absurd", "odd", "error")
    assert "50 x 50 x 50 mm" in finding.message
    assert "1 x 1 x 2 mm" in finding.message
    lost = [facts(f"{n:02d}", grid=grid(1e-6, 1e-6, 1e-6)) for n in range(11)]
    assert found("structure-erased", lost) == []
    assert len(found("spacing-unlikely", lost)) == 11
