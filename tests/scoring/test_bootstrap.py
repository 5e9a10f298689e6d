"""Bootstrap intervals: SciPy's BCa on the same resamples, coverage, and what must not matter."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medseg3d.errors import ConfigError, DataError
from medseg3d.scoring.bootstrap import interval, resampled_means
from tests.limits import limited

NAN = float("nan")
VALUES = [0.91, 0.88, 0.93, 0.12, 0.85, 0.90, 0.79, 0.94, 0.60, 0.87, 0.83, 0.92]
PATIENTS = [f"p{number:02d}" for number in range(len(VALUES))]
CLUSTERS = ["a", "b", "b", "c", "d", "d", "d", "e", "f", "f", "g", "h"]


def of_scipy(values, groups, level: float) -> tuple[float, float]:
    """SciPy's interval for the statistic "mean over the cases of these groups"."""
    data, names = np.array(values), np.array(groups)
    members = [data[names == name] for name in sorted(set(groups))]

    def mean_of(chosen):
        return np.concatenate([members[int(group)] for group in chosen]).mean()

    ours = resampled_means(data[:, None], groups)[:, 0]
    mean = mean_of(range(len(members)))
    ours[np.abs(ours - mean) < 1e-12] = mean  # SciPy takes rounding for a difference
    result = stats.bootstrap(
        (np.arange(len(members)),),
        mean_of,
        vectorized=False,
        n_resamples=0,
        confidence_level=level,
        method="BCa",
        bootstrap_result=SimpleNamespace(bootstrap_distribution=ours),
    )
    return tuple(result.confidence_interval)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("groups", [PATIENTS, CLUSTERS], ids=["one case each", "several cases"])
def test_ends_where_scipy_says(groups: list[str], level: float) -> None:
    found = interval(VALUES, groups, level=level)
    assert found == pytest.approx(of_scipy(VALUES, groups, level), abs=1e-12)


def test_the_correction_moves_both_ends_of_skewed_scores_down() -> None:
    means = resampled_means(np.array(VALUES)[:, None], PATIENTS)[:, 0]
    low, high = interval(VALUES, PATIENTS)
    uncorrected = np.quantile(means, (0.025, 0.975))
    assert low < uncorrected[0]
    assert high < uncorrected[1]


def test_draws_whole_groups_each_as_likely_as_the_others() -> None:
    values, groups = np.array([0.0, 3.0, 5.0, 10.0]), ["a", "a", "b", "c"]
    members = [values[:2], values[2:3], values[3:]]
    every = [
        np.concatenate([members[group] for group in chosen]).mean()
        for chosen in product(range(3), repeat=3)
    ]
    expected, times = np.unique(np.round(every, 9), return_counts=True)
    found = np.round(resampled_means(values[:, None], groups, resamples=20_000)[:, 0], 9)
    assert set(found) == set(expected)
    shares = times / 27
    counted = np.array([np.count_nonzero(found == value) for value in expected])
    assert np.abs(counted - 20_000 * shares).max() < 5 * np.sqrt(20_000 * 0.25)
    deviations = (counted - 20_000 * shares) / np.sqrt(20_000 * shares * (1 - shares))
    assert np.abs(deviations).max() < 4.5


def test_columns_share_their_draws() -> None:
    values = np.array(VALUES)
    both = resampled_means(np.stack([values, 2 * values + 1], axis=1), CLUSTERS)
    assert both.shape == (2000, 2)
    assert both[:, 1] == pytest.approx(2 * both[:, 0] + 1)


def covers(groups_count: int, rounds: int, *, by_patient: bool) -> float:
    """Share of intervals that hold the true mean, 0, where cases of a patient are alike."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(rounds):
        patients = np.repeat(np.arange(groups_count), 4)
        values = rng.normal(size=groups_count)[patients] + 0.3 * rng.normal(size=patients.size)
        groups = patients if by_patient else np.arange(patients.size)
        low, high = interval(values, [f"{group}" for group in groups], resamples=400)
        hits += low <= 0 <= high
    return hits / rounds


def test_covers_as_promised_and_only_because_patients_are_drawn() -> None:
    assert 0.90 <= covers(30, 300, by_patient=True) <= 0.99
    assert covers(30, 300, by_patient=False) < 0.80


numbers = st.lists(st.integers(0, 40).map(lambda number: number / 4), min_size=2, max_size=12)


@given(values=numbers, factor=st.sampled_from([0.5, 3.0]), shift=st.integers(-5, 5))
@settings(max_examples=40)
def test_unit_and_zero_do_not_matter(values, factor: float, shift: int) -> None:
    groups = [f"{place // 2}" for place in range(len(values))]
    found = interval(values, groups)
    moved = interval([factor * value + shift for value in values], groups)
    assert moved == pytest.approx([factor * end + shift for end in found], abs=1e-9, nan_ok=True)


@given(values=numbers, order=st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_the_order_of_the_rows_does_not_matter(values, order) -> None:
    rows = [(value, f"{place // 2}") for place, value in enumerate(values)]
    mixed = list(rows)
    order.shuffle(mixed)
    found, expected = (interval(*zip(*each, strict=True)) for each in (mixed, rows))
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(values=numbers)
@settings(max_examples=40)
def test_lies_within_the_values_and_around_narrower_intervals(values) -> None:
    groups = [f"{place}" for place in range(len(values))]
    low, high = interval(values, groups)
    narrow = interval(values, groups, level=0.5)
    assert min(values) <= low <= narrow[0] <= narrow[1] <= high <= max(values)


def test_undefined_values_are_left_out() -> None:
    with_gaps = interval([NAN, *VALUES, NAN], ["x", *PATIENTS, "p00"])
    assert with_gaps == interval(VALUES, PATIENTS)


def test_one_patient_says_nothing_about_others() -> None:
    for values, groups in (([], []), ([0.5], ["a"]), ([0.5, 0.7], ["a", "a"])):
        assert np.isnan(interval(values, groups)).all()
    assert np.isnan(interval([0.5, NAN], ["a", "b"])).all()


def test_two_patients_bound_their_mean() -> None:
    assert interval([0.25, 0.75], ["a", "b"]) == (0.25, 0.75)


def test_equal_scores_leave_no_doubt() -> None:
    assert interval([0.1] * 3, ["a", "b", "c"]) == (0.1, 0.1)


def test_equal_patients_leave_no_doubt_either() -> None:
    # every resample has the same mean, but for rounding
    found = interval([0.1, 0.7, 0.7, 0.1, 0.1, 0.7], ["a", "a", "b", "b", "c", "c"])
    assert found == pytest.approx((0.4, 0.4))


def test_repeats_itself_and_depends_on_the_seed() -> None:
    assert interval(VALUES, PATIENTS) == interval(VALUES, PATIENTS)
    assert interval(VALUES, PATIENTS) != interval(VALUES, PATIENTS, seed=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"level": 1.0}, ConfigError, "between 0 and 1, got 1.0"),
        ({"resamples": 0}, ConfigError, "at least 1 resample"),
        ({"values": [1.0, 2.0, 3.0]}, DataError, "3 values and 2 groups"),
        ({"values": [1.0, float("inf")]}, DataError, "infinite"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        interval(**({"values": [1.0, 2.0], "groups": ["a", "b"]} | options))


def test_means_are_resampled_of_finite_values_only() -> None:
    for values in ([[0.5], [NAN]], np.empty((0, 1))):
        with pytest.raises(DataError, match="finite values, at least one"):
            resampled_means(np.array(values), ["a", "b"][: len(values)])


def test_a_whole_table_takes_a_moment() -> None:
    values = np.random.default_rng(0).random((20 * 12, 200))
    groups = [f"patient {number}" for number in range(200)]
    with limited(2):
        for column in values:
            interval(column, groups)
