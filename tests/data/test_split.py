"""Folds hold every case once, keep patients together, spread labels and know no order."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.data.cases import Case
from medseg3d.data.split import Split, chosen_fold, deal_folds, make_folds
from medseg3d.errors import ConfigError, DataError


def of_patients(*visits: int) -> list[Case]:
    """Cases of patients with so many visits each."""
    return [
        Case(f"p{patient:03d}_v{visit}", (), None, f"p{patient:03d}")
        for patient, number in enumerate(visits)
        for visit in range(number)
    ]


many_patients = st.lists(st.integers(1, 4), min_size=2, max_size=30)
some_labels = st.frozensets(st.integers(1, 4))


def spread_of(
    dealt: Sequence[Sequence[str]], labels_of: Mapping[str, Collection[int]], label: int
) -> int:
    """By how many cases with the label the folds differ."""
    numbers = [sum(label in labels_of[case_id] for case_id in fold) for fold in dealt]
    return max(numbers) - min(numbers)


def dealt_by_size(cases: Sequence[Case], folds: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """How folds were dealt before labels were looked at, written anew."""
    cases_of: dict[str, list[str]] = {}
    for case in sorted(cases, key=lambda case: case.id):
        cases_of.setdefault(case.patient, []).append(case.id)
    names = sorted(cases_of)
    np.random.default_rng(seed).shuffle(names)
    parts: list[list[str]] = [[] for _ in range(min(folds, len(names)))]
    for number in (4, 3, 2, 1):
        for name in names:
            if len(cases_of[name]) == number:
                sizes = [len(part) for part in parts]
                parts[sizes.index(min(sizes))].extend(cases_of[name])
    return tuple(tuple(sorted(part)) for part in parts)


@given(visits=many_patients, folds=st.integers(2, 8), seed=st.integers(0, 2**32 - 1))
def test_every_case_is_in_one_fold_and_no_patient_in_two(
    visits: list[int], folds: int, seed: int
) -> None:
    cases = of_patients(*visits)
    dealt = make_folds(cases, folds=folds, seed=seed)
    assert len(dealt) == min(folds, len(visits))
    assert sorted(case_id for fold in dealt for case_id in fold) == [case.id for case in cases]
    homes = Counter(patient for fold in dealt for patient in {name[:4] for name in fold})
    assert set(homes.values()) == {1}
    sizes = [len(fold) for fold in dealt]
    assert max(sizes) - min(sizes) <= max(visits)
    assert min(sizes) > 0


@given(visits=many_patients, data=st.data())
def test_the_order_of_the_cases_has_no_influence(visits: list[int], data: st.DataObject) -> None:
    cases = of_patients(*visits)
    shuffled = data.draw(st.permutations(cases))
    labels_of = {case.id: data.draw(some_labels) for case in cases}
    for known in (None, labels_of):
        dealt = make_folds(cases, seed=3, labels_of=known)
        assert make_folds(shuffled, seed=3, labels_of=known) == dealt


@given(visits=many_patients, folds=st.integers(2, 8), seed=st.integers(0, 99), labels=some_labels)
def test_labels_that_every_case_has_leave_the_folds_as_they_were(
    visits: list[int], folds: int, seed: int, labels: frozenset[int]
) -> None:
    cases = of_patients(*visits)
    before = dealt_by_size(cases, folds, seed)
    assert make_folds(cases, folds=folds, seed=seed) == before
    same = dict.fromkeys([case.id for case in cases], labels)
    assert make_folds(cases, folds=folds, seed=seed, labels_of=same) == before


@given(visits=many_patients, folds=st.integers(2, 8), data=st.data())
def test_labels_never_part_patients_nor_empty_a_fold(
    visits: list[int], folds: int, data: st.DataObject
) -> None:
    cases = of_patients(*visits)
    labels_of = {case.id: data.draw(some_labels) for case in cases}
    dealt = make_folds(cases, folds=folds, labels_of=labels_of)
    assert len(dealt) == min(folds, len(visits))
    assert all(dealt)
    assert sorted(case_id for fold in dealt for case_id in fold) == [case.id for case in cases]
    homes = Counter(patient for fold in dealt for patient in {name[:4] for name in fold})
    assert set(homes.values()) == {1}


@given(number=st.integers(2, 40), folds=st.integers(2, 8), data=st.data())
def test_the_rarest_label_is_in_as_many_cases_of_each_fold(
    number: int, folds: int, data: st.DataObject
) -> None:
    cases = of_patients(*[1] * number)
    labels_of = {case.id: data.draw(some_labels) for case in cases}
    having = Counter(label for labels in labels_of.values() for label in labels)
    dealt = make_folds(cases, folds=folds, labels_of=labels_of)
    if having:
        rarest = min(having, key=lambda label: (having[label], label))
        assert spread_of(dealt, labels_of, rarest) <= 1


def test_three_tumors_in_nine_patients_are_in_three_folds() -> None:
    cases = of_patients(*[1] * 9)
    tumors = {"p000_v0", "p004_v0", "p005_v0"}
    labels_of = {case.id: {1, 2} if case.id in tumors else {1} for case in cases}
    by_size = make_folds(cases, folds=3)
    assert [len(tumors & set(fold)) for fold in by_size] != [1, 1, 1]
    dealt = make_folds(cases, folds=3, labels_of=labels_of)
    assert [len(tumors & set(fold)) for fold in dealt] == [1, 1, 1]
    assert [len(fold) for fold in dealt] == [3, 3, 3]


def test_all_visits_of_a_patient_count() -> None:
    cases = of_patients(3, 1, 1, 1, 3)
    labels_of = {case.id: {5} if case.patient != "p004" else set() for case in cases}
    dealt = make_folds(cases, folds=2, labels_of=labels_of)
    having = {sum(5 in labels_of[case_id] for case_id in fold) for fold in dealt}
    assert having == {3}, "three visits of one patient here, one visit of three there"


def test_many_labels_are_spread_more_evenly_than_by_chance() -> None:
    cases = of_patients(*[1] * 60)
    rng = np.random.default_rng(0)
    shares = {1: 0.05, 2: 0.1, 3: 0.2, 4: 0.3, 5: 0.6, 6: 1.0}
    labels_of = {
        case.id: {label for label, share in shares.items() if rng.random() < share}
        for case in cases
    }
    by_size, dealt = make_folds(cases), make_folds(cases, labels_of=labels_of)
    chance = [spread_of(by_size, labels_of, label) for label in shares]
    spread = [spread_of(dealt, labels_of, label) for label in shares]
    assert max(spread) <= 2 < max(chance)
    sizes = [len(fold) for fold in dealt]
    assert max(sizes) - min(sizes) <= 2


def test_the_seed_changes_the_folds() -> None:
    cases = of_patients(*[1] * 20)
    assert make_folds(cases, seed=0) == make_folds(cases, seed=0)
    assert make_folds(cases, seed=0) != make_folds(cases, seed=1)


def test_single_visits_give_folds_that_differ_by_one_case_at_most() -> None:
    sizes = sorted(len(fold) for fold in make_folds(of_patients(*[1] * 208), folds=5))
    assert sizes == [41, 41, 42, 42, 42]


def test_each_fold_is_held_out_once() -> None:
    cases = of_patients(*[1] * 8)
    splits = deal_folds(cases, folds=5, seed=7).values()
    held_out = [case_id for part in splits for case_id in part.validation]
    assert sorted(held_out) == [case.id for case in cases]
    for part in splits:
        assert sorted(part.training + part.validation) == [case.id for case in cases]
        assert not set(part.training) & set(part.validation)


def test_few_patients_are_held_out_one_at_a_time() -> None:
    cases = of_patients(1, 1, 2)
    folds = deal_folds(cases)
    assert [len(part.validation) for part in folds.values()].count(2) == 1
    with pytest.raises(ConfigError, match=r"fold 3 does not exist; folds are 0 to 2$"):
        chosen_fold(folds, 3)


def test_a_fold_has_a_number_or_the_name_of_a_site() -> None:
    north, south = Split(("b",), ("a",)), Split(("a",), ("b",))
    folds = {"1": north, "south": south}
    assert chosen_fold(folds, "south") == south
    assert chosen_fold(folds, 1) == chosen_fold(folds, "1") == north, "a name goes before a number"
    assert chosen_fold(folds, 0) == north
    for wrong in (-1, 2, "west"):
        told = rf"fold {wrong} does not exist; folds are 0 to 1 \(1, south\)"
        with pytest.raises(ConfigError, match=told):
            chosen_fold(folds, wrong)


def test_folds_are_numbered() -> None:
    cases = of_patients(1, 1, 1)
    folds = deal_folds(cases, folds=2)
    assert list(folds) == ["0", "1"]
    assert folds["1"] == chosen_fold(folds, 1)


@pytest.mark.parametrize("visits", [(1,), (4,), ()])
def test_one_patient_cannot_be_split(visits: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="cannot be split"):
        deal_folds(of_patients(*visits))


def test_one_fold_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2, got 1"):
        make_folds(of_patients(1, 1), folds=1)


def test_a_split_survives_json() -> None:
    part = deal_folds(of_patients(1, 1, 1), seed=1)["0"]
    assert Split(**json.loads(json.dumps(part.as_dict()))) == part


def test_the_folds_of_a_seed_stay_the_same_for_ever() -> None:
    dealt = make_folds(of_patients(1, 1, 1, 1, 1, 1), folds=3, seed=0)
    assert dealt == (("p003_v0", "p004_v0"), ("p000_v0", "p002_v0"), ("p001_v0", "p005_v0"))
