"""Which predictions are strange among the others: worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.review.outliers import (
    ABSENT,
    FEWEST,
    LARGEST_DISTANCE,
    SD_OF_MAD,
    Measures,
    measure,
    strangeness,
)

NAMES = {1: "liver", 2: "spleen"}


def usual(**changed: Measures) -> dict[str, Measures]:
    """Seven cases with livers of 1400 to 1600 mL in one part, and others."""
    volumes = (1400, 1450, 1480, 1500, 1520, 1550, 1600)
    return {f"u{n}": Measures({1: v}, {1: 1}) for n, v in enumerate(volumes)} | changed


def test_a_small_liver_is_strange_by_its_distance_in_robust_deviations() -> None:
    cases = usual(odd=Measures({1: 300.0}, {1: 1}))
    found = strangeness(cases, NAMES)
    logs = np.log([case.volumes_ml[1] for case in cases.values()])
    away = np.abs(logs - np.median(logs))
    spread = max(SD_OF_MAD * np.median(away), 0.05)
    assert found["odd"].distance == pytest.approx(away[-1] / spread, abs=0.01)
    assert found["odd"].reasons == ("liver: 300 mL, usually 1.49e+03 mL",)
    others = [one.distance for case, one in found.items() if case != "odd"]
    assert max(others) < 3 < found["odd"].distance
    assert all(not one.reasons for case, one in found.items() if case != "odd")


def test_what_most_have_is_missed_and_what_few_have_is_not() -> None:
    cases = usual(none=Measures({}, {}), two=Measures({1: 1500.0, 2: 200.0}, {1: 1, 2: 1}))
    found = strangeness(cases, NAMES)
    assert found["none"].distance == ABSENT
    assert found["none"].reasons == ("liver: not found, though in 8 of 9 cases",)
    assert found["two"].distance < 1  # nobody knows how large spleens are


def test_many_parts_are_strange_and_few_are_not() -> None:
    many = Measures({1: 1500.0}, {1: 9})
    found = strangeness(usual(many=many), NAMES)
    assert found["many"].distance == 8.0
    assert found["many"].reasons == ("liver: in 9 parts, usually 1",)
    many_usual = {case: Measures(one.volumes_ml, {1: 9}) for case, one in usual().items()}
    few = strangeness(many_usual | {"few": Measures({1: 1500.0}, {1: 1})}, NAMES)
    assert few["few"].distance == pytest.approx(0.0, abs=0.5)


def test_an_uncertain_case_is_strange() -> None:
    cases = {
        case: Measures(one.volumes_ml, one.parts, 0.10 + n / 1000)
        for n, (case, one) in enumerate(usual().items())
    }
    found = strangeness(cases | {"unsure": Measures({1: 1500.0}, {1: 1}, 0.5)}, NAMES)
    assert found["unsure"].distance == pytest.approx((0.5 - 0.1035) / 0.01, abs=0.01)
    assert found["unsure"].reasons == ("uncertain: mean entropy 0.50, usually 0.10",)


def test_the_strangest_reason_comes_first() -> None:
    worse = Measures({1: 15.0}, {1: 6})
    first, second = strangeness(usual(worse=worse), NAMES)["worse"].reasons
    assert first.startswith("liver: 15 mL")
    assert second == "liver: in 6 parts, usually 1"


def test_among_few_cases_nothing_is_usual() -> None:
    cases = dict(list(usual().items())[: FEWEST - 1])
    assert all(one.distance is None and not one.reasons for one in strangeness(cases, {}).values())


volumes = st.lists(st.floats(1e-4, 1e6), min_size=FEWEST, max_size=12)


@given(values=volumes, unit=st.floats(1e-3, 1e3))
def test_no_unit_of_volume_matters(values: list[float], unit: float) -> None:
    def distances(factor: float) -> list[float]:
        cases = {str(n): Measures({1: v * factor}, {1: 1}) for n, v in enumerate(values)}
        found = [one.distance for one in strangeness(cases, NAMES).values()]
        assert all(one is not None and 0 <= one <= LARGEST_DISTANCE for one in found)
        return [one for one in found if one is not None]

    assert distances(1.0) == pytest.approx(distances(unit), abs=0.02)


def test_equal_cases_are_all_usual() -> None:
    cases = {str(n): Measures({1: 5.0}, {1: 2}, 0.3) for n in range(6)}
    assert [one.distance for one in strangeness(cases, NAMES).values()] == [0.0] * 6


@pytest.mark.parametrize("high", [9, 70_000, 2**31])
def test_volumes_parts_and_uncertainty_of_a_label_map(high: int) -> None:
    labels = np.zeros((12, 10, 8), np.uint32)
    labels[1:4, 1:4, 1:3] = 1  # 18 voxels
    labels[4, 4, 3] = 1  # touches them over a corner
    labels[8, 8, 7] = labels[10, 8, 7] = high
    entropy = np.where(labels > 0, 0.25, 0.9).astype(np.float32)
    found = measure(labels[::-1, :, ::-1], 0.5, entropy[::-1, :, ::-1])
    assert found.volumes_ml == {1: 9.5, high: 1.0}
    assert found.parts == {1: 1, high: 2}
    assert found.uncertainty == pytest.approx(0.25)


def test_an_empty_label_map_has_no_uncertainty() -> None:
    nothing = np.zeros((3, 3, 3), np.uint8)
    assert measure(nothing, 1.0, np.ones((3, 3, 3), np.float32)) == Measures({}, {}, None)
    assert not math.isnan(strangeness({}, {}).get("a", 0))  # type: ignore[arg-type]
