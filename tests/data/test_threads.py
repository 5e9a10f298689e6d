"""Work in threads: order, errors, and an end that waits for nobody."""

import threading
import time

import pytest

from medseg3d.data import threads
from medseg3d.data.threads import in_threads


def test_results_keep_their_order() -> None:
    def slow_first(n: int) -> int:
        time.sleep(0.05 if n == 0 else 0)
        return n * n

    assert list(in_threads(slow_first, range(6), threads=3)) == [0, 1, 4, 9, 16, 25]


def test_the_first_error_ends_the_work() -> None:
    begun = []

    def work(n: int) -> int:
        begun.append(n)
        if n == 1:
            raise ValueError(n)
        return n

    with pytest.raises(ValueError, match="1"):
        list(in_threads(work, range(1000), threads=1))
    assert begun == [0, 1]


def test_a_call_that_is_running_is_stopped() -> None:
    ended = threading.Event()

    def long(n: int) -> int:
        try:
            for _ in range(6000 if n else 0):
                time.sleep(0.01)
        except SystemExit:
            ended.set()
            raise
        return n

    results = in_threads(long, [0, 1, 2])
    assert next(results) == 0
    begun = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 30
    assert ended.is_set()


def test_nobody_waits_long_for_a_call_that_cannot_be_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "PATIENCE", 0.1)
    release = threading.Event()
    results = in_threads(lambda n: release.wait(60) if n else n, [0, 1, 2])
    assert next(results) == 0
    begun = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 30
    release.set()
