"""A faster arithmetic is taken only where the first windows show that labels stay."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from medseg3d.device import Precision
from medseg3d.inference.ensemble import Ensemble, told
from medseg3d.inference.evidence import (
    TELLING_WINDOWS,
    VAIN_WINDOWS,
    Memory,
    Trial,
    TrialOverError,
    UntilOver,
    on_trial,
)

Batch = npt.NDArray[np.float32]


class Fake:
    """Two labels: foreground where the window is above 0."""

    backend = "fake"
    divisor = (2, 2, 2)

    def __init__(self, precision: Precision, error: Callable[[Batch], None] | None = None) -> None:
        self.precision: Precision = precision
        self.error = error
        self.calls = 0

    def __call__(self, batch: Batch) -> Batch:
        self.calls += 1
        logits = np.concatenate([-batch, batch], axis=1)
        if self.error:
            self.error(logits)
        return logits


class Nothing(Fake):
    """Finds background only."""

    def __call__(self, batch: Batch) -> Batch:
        return np.concatenate([np.abs(batch), -np.abs(batch)], axis=1)


def window(voxels: int = 500) -> Batch:
    """1000 voxels, of which the first are foreground."""
    flat = np.where(np.arange(1000) < voxels, 1.0, -1.0).astype(np.float32)
    return flat.reshape(1, 1, 10, 10, 10)


def swap(first: int, last: int) -> Callable[[Batch], None]:
    """Gives the other label to some voxels, and moves all logits."""

    def error(logits: Batch) -> None:
        flat = logits.reshape(*logits.shape[:2], -1)
        flat *= 1.01
        flat[..., first:last] *= -1

    return error


@pytest.mark.parametrize(
    ("wrong", "taken"), [((0, 0), True), ((0, 1), True), ((0, 2), False), ((500, 600), False)]
)
def test_bf16_goes_on_if_a_thousandth_of_the_labels_differs_at_most(
    wrong: tuple[int, int], taken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    exact, fast = Fake("fp32"), Fake("bf16", swap(*wrong))
    trial = Trial(exact, fast)
    with caplog.at_level(logging.WARNING):
        for _ in range(TELLING_WINDOWS):
            assert trial.precision == "fp32"
            np.testing.assert_array_equal(trial(window()), exact(window()))
        assert trial.precision == ("bf16" if taken else "fp32")
        calls = exact.calls, fast.calls
        for _ in range(3):
            trial(window())
    assert (exact.calls - calls[0], fast.calls - calls[1]) == ((0, 3) if taken else (3, 0))
    assert len(caplog.messages) == (0 if taken else 1)
    if not taken:
        assert "so fp32 is used, which is slower" in caplog.messages[0]
    assert (trial.backend, trial.divisor) == ("fake", (2, 2, 2))


def test_a_small_structure_that_vanishes_is_enough_to_refuse() -> None:
    trial = Trial(Fake("fp32"), Fake("bf16", swap(0, 1)))
    for _ in range(TELLING_WINDOWS):
        trial(window(1))
    assert trial.precision == "fp32"


def test_background_is_no_evidence_and_soon_not_compared_any_more() -> None:
    exact, fast = Fake("fp32"), Fake("bf16")
    trial = Trial(exact, fast)
    for _ in range(VAIN_WINDOWS + 5):
        trial(window(0))
    assert trial.precision == "fp32"
    assert (exact.calls, fast.calls) == (VAIN_WINDOWS + 5, VAIN_WINDOWS)
    for _ in range(TELLING_WINDOWS):
        trial(window())
    assert trial.precision == "bf16"


def test_foreground_where_there_is_none_is_seen() -> None:
    trial = Trial(Fake("fp32"), Fake("bf16", swap(0, 100)))
    for _ in range(TELLING_WINDOWS):
        trial(window(0))
    trial(window())
    assert trial.precision == "fp32"


def test_the_windows_of_a_batch_count_one_by_one() -> None:
    trial = Trial(Fake("fp32"), Fake("bf16"))
    trial(np.concatenate([window()] * TELLING_WINDOWS))
    assert trial.precision == "bf16"


def test_nan_of_the_fast_network_is_refused() -> None:
    def broken(logits: Batch) -> None:
        logits[:] = np.nan

    trial = Trial(Fake("fp32"), Fake("bf16", broken))
    for _ in range(TELLING_WINDOWS):
        trial(window())
    assert trial.precision == "fp32"


def test_a_small_case_decides_when_it_ends_so_that_the_next_is_computed_likewise() -> None:
    for voxels, passed in ((500, True), (0, None)):
        trial = Trial(Fake("fp32"), Fake("bf16"))
        until_over = UntilOver(Ensemble([Fake("fp32"), trial]))
        until_over(window(voxels))
        if passed is None:  # there was nothing to tell by, nor anything to compute otherwise
            until_over.end_of_case()
            assert on_trial(trial)
            continue
        with pytest.raises(TrialOverError):
            until_over.end_of_case()
        assert (trial.is_over, trial.precision) == (True, "bf16")


def test_a_model_that_sees_background_only_stays_on_trial_beside_one_that_is_decided() -> None:
    seeing, blind = Trial(Fake("fp32"), Fake("bf16")), Trial(Nothing("fp32"), Nothing("bf16"))
    both = Ensemble([seeing, blind])
    first = UntilOver(both)
    first(window())
    with pytest.raises(TrialOverError):  # begun anew, with the first one in bf16
        first.end_of_case()
    again = UntilOver(both)
    again(window())
    again.end_of_case()
    assert (seeing.precision, blind.precision, on_trial(both)) == ("bf16", "fp32", True)


def test_a_case_in_which_one_of_several_trials_ends_is_begun_anew() -> None:
    both = Ensemble([Trial(Fake("fp32"), Fake("bf16")), Trial(Nothing("fp32"), Nothing("bf16"))])
    first = UntilOver(both)
    for _ in range(TELLING_WINDOWS):
        first(window())
    with pytest.raises(TrialOverError):
        first.end_of_case()


def test_a_small_case_decides_for_now_and_not_for_good() -> None:
    verdicts: list[bool] = []
    trial = Trial(Fake("fp32"), Fake("bf16"), verdicts.append)
    trial(window(1))
    trial.settle()
    assert (trial.is_over, verdicts) == (True, [])


def test_what_computes_is_told_of_all_networks_that_differ() -> None:
    several = Ensemble([Fake("bf16"), Fake("fp32"), Fake("bf16")])
    assert (told(several, "precision"), told(several, "backend")) == ("bf16, fp32", "fake")
    assert told(Fake("fp32"), "precision") == "fp32"


def test_a_case_is_begun_anew_when_the_trial_is_over() -> None:
    trial = Trial(Fake("fp32"), Fake("bf16"))
    until_over = UntilOver(trial)
    for _ in range(TELLING_WINDOWS - 1):
        until_over(window())
    assert on_trial(trial)
    assert (until_over.precision, until_over.backend) == ("fp32", "fake")
    with pytest.raises(TrialOverError):
        until_over(window())
    assert not on_trial(trial)
    assert until_over.divisor == (2, 2, 2)
    assert not on_trial(Fake("fp32"))


@pytest.mark.parametrize("wrong", [(0, 0), (0, 500)])
def test_what_a_trial_found_is_remembered(tmp_path: Path, wrong: tuple[int, int]) -> None:
    memory = Memory(tmp_path / "cache" / "trials.json")
    assert memory.recall("a") is None
    trial = Trial(Fake("fp32"), Fake("bf16", swap(*wrong)), lambda ok: memory.keep("a", ok))
    for _ in range(TELLING_WINDOWS):
        trial(window())
    assert Memory(memory.path).recall("a") is (wrong == (0, 0))
    assert memory.recall("b") is None


@pytest.mark.parametrize("text", ["", "[1]", '{"a": "yes"}', "{"])
def test_a_damaged_memory_is_none(tmp_path: Path, text: str) -> None:
    memory = Memory(tmp_path / "trials.json")
    memory.path.write_text(text)
    assert memory.recall("a") is None
    memory.keep("a", True)
    assert memory.recall("a") is True


def test_a_folder_that_cannot_be_written_remembers_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    memory = Memory(tmp_path / "cache" / "trials.json")
    memory.keep("a", True)
    assert memory.recall("a") is None
