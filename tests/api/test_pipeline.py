"""Three steps that overlap: order, overlap, errors and what is left running."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from medseg3d.api.predicting.pipeline import in_line


@contextmanager
def _open(_job: int) -> Iterator[None]:
    yield


def test_results_come_in_order_with_their_jobs() -> None:
    found = in_line(
        [3, 1, 2],
        read=lambda job: job * 10,
        compute=lambda job, read: (job, read),
        write=lambda job, made: (*made, job),
        guard=_open,
        fit_together=lambda *_: True,
    )
    assert list(found) == [(3, (3, 30, 3)), (1, (1, 10, 1)), (2, (2, 20, 2))]


@pytest.mark.parametrize("together", [True, False])
def test_the_steps_overlap_only_where_there_is_room(together: bool) -> None:
    at_work: set[str] = set()
    most = 0
    lock = threading.Lock()

    def step(name: str):  # type: ignore[no-untyped-def]
        def work(job: int, *_: object) -> int:
            nonlocal most
            with lock:
                at_work.add(f"{name} {job}")
                most = max(most, len(at_work))
            time.sleep(0.02)
            with lock:
                at_work.remove(f"{name} {job}")
            return job

        return work

    found = in_line(
        list(range(5)),
        read=step("read"),
        compute=step("compute"),
        write=step("write"),
        guard=_open,
        fit_together=lambda *_: together,
    )
    assert [job for job, _ in found] == list(range(5))
    assert (most >= 2) == together


@pytest.mark.parametrize("step", ["read", "compute", "write"])
def test_a_job_that_fails_leaves_the_others_alone(step: str) -> None:
    failed: list[tuple[int, str]] = []

    @contextmanager
    def guard(job: int) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            failed.append((job, str(error)))

    def fails_at(name: str):  # type: ignore[no-untyped-def]
        def work(job: int, *_: object) -> int:
            if name == step and job in (0, 2, 4):
                raise ValueError(f"{name} {job}")
            return job

        return work

    found = in_line(
        list(range(5)),
        read=fails_at("read"),
        compute=fails_at("compute"),
        write=fails_at("write"),
        guard=guard,
        fit_together=lambda *_: True,
    )
    assert [job for job, _ in found] == [1, 3]
    assert sorted(failed) == [(job, f"{step} {job}") for job in (0, 2, 4)]


@pytest.mark.parametrize("step", ["read", "compute", "write"])
def test_an_error_that_is_not_kept_ends_everything(step: str) -> None:
    before = set(threading.enumerate())

    def slow(name: str):  # type: ignore[no-untyped-def]
        def work(job: int, *_: object) -> int:
            if name == step and job == 1:
                raise OSError("the disk is full")
            for _step in range(6000 if job > 2 else 1):
                time.sleep(0.01)
            return job

        return work

    begun = time.monotonic()
    with pytest.raises(OSError, match="disk is full"):
        list(
            in_line(
                list(range(4)),
                read=slow("read"),
                compute=slow("compute") if step != "write" else lambda job, _: job,
                write=slow("write"),
                guard=_open,
                fit_together=lambda *_: step != "compute",
            )
        )
    assert time.monotonic() - begun < 30
    assert set(threading.enumerate()) <= before


def test_what_was_read_is_not_kept_while_it_is_written() -> None:
    class Large:
        alive = 0

        def __init__(self) -> None:
            Large.alive += 1

        def __del__(self) -> None:
            Large.alive -= 1

    seen: list[int] = []
    found = in_line(
        [0],
        read=lambda _: Large(),
        compute=lambda *_: "made",
        write=lambda *_: seen.append(Large.alive),
        guard=_open,
        fit_together=lambda *_: False,
    )
    list(found)
    assert seen == [0]
