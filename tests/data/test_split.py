"""Folds hold every case once, keep patients together and do not depend on order."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.data.cases import Case
from medseg3d.data.split import Split, make_folds, split
from medseg3d.errors import ConfigError, DataError


def of_patients(*visits: int) -> list[Case]:
    """Cases of patients with so many visits each."""
    return [
        Case(f"p{patient:03d}_v{visit}", (), None, f"p{patient:03d}")
        for patient, number in enumerate(visits)
        for visit in range(number)
    ]


many_patients = st.lists(st.integers(1, 4), min_size=2, max_size=30)


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
    assert make_folds(shuffled, seed=3) == make_folds(cases, seed=3)


def test_the_seed_changes_the_folds() -> None:
    cases = of_patients(*[1] * 20)
    assert make_folds(cases, seed=0) == make_folds(cases, seed=0)
    assert make_folds(cases, seed=0) != make_folds(cases, seed=1)


def test_single_visits_give_folds_that_differ_by_one_case_at_most() -> None:
    sizes = sorted(len(fold) for fold in make_folds(of_patients(*[1] * 208), folds=5))
    assert sizes == [41, 41, 42, 42, 42]


def test_each_fold_is_held_out_once() -> None:
    cases = of_patients(*[1] * 8)
    splits = [split(cases, fold, folds=5, seed=7) for fold in range(5)]
    held_out = [case_id for part in splits for case_id in part.validation]
    assert sorted(held_out) == [case.id for case in cases]
    for part in splits:
        assert sorted(part.training + part.validation) == [case.id for case in cases]
        assert not set(part.training) & set(part.validation)


def test_few_patients_are_held_out_one_at_a_time() -> None:
    cases = of_patients(1, 1, 2)
    assert [len(split(cases, fold).validation) for fold in range(3)].count(2) == 1
    with pytest.raises(ConfigError, match="fold 3 does not exist; 3 patients give folds 0 to 2"):
        split(cases, 3)


@pytest.mark.parametrize("visits", [(1,), (4,), ()])
def test_one_patient_cannot_be_split(visits: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="cannot be split"):
        split(of_patients(*visits))


def test_one_fold_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2, got 1"):
        make_folds(of_patients(1, 1), folds=1)


def test_a_split_survives_json() -> None:
    part = split(of_patients(1, 1, 1), seed=1)
    assert Split(**json.loads(json.dumps(part.as_dict()))) == part


def test_the_folds_of_a_seed_stay_the_same_for_ever() -> None:
    dealt = make_folds(of_patients(1, 1, 1, 1, 1, 1), folds=3, seed=0)
    assert dealt == (("p003_v0", "p004_v0"), ("p000_v0", "p002_v0"), ("p001_v0", "p005_v0"))
