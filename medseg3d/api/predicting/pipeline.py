"""Reading the next case and writing the last one while one is computed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from medseg3d.data.threads import Task

Job = TypeVar("Job")
Read = TypeVar("Read")
Made = TypeVar("Made")
Result = TypeVar("Result")


def in_line(
    jobs: Sequence[Job],
    *,
    read: Callable[[Job], Read],
    compute: Callable[[Job, Read], Made],
    write: Callable[[Job, Made], Result],
    guard: Callable[[Job], AbstractContextManager[None]],
    fit_together: Callable[[Job, Job], bool],
) -> Iterator[tuple[Job, Result]]:
    """Do three steps for each job, in order, with at most one job in each of them.

    Reading and writing happen in threads of their own, computing in the caller's. When an
    error or an interrupt leaves this function, what is being read is dropped and what is being
    written is finished.

    Args:
        jobs: What to do.
        read: First step.
        compute: Second step; what was read is not kept during the third.
        write: Last step.
        guard: Context in which a job's errors are raised; it may keep them to itself, and the
            other jobs go on.
        fit_together: Whether the second job may be read while the first is computed.

    Yields:
        Jobs that were done, and what their last step returned.
    """
    reading: Task[Read] | None = None
    writing: tuple[Job, Task[Result]] | None = None
    try:
        for place, job in enumerate(jobs):
            reading = reading or Task(read, job)
            found: list[Read] = []
            with guard(job):
                found.append(reading.result())
            reading = None
            following = jobs[place + 1] if place + 1 < len(jobs) else None
            if following is not None and fit_together(job, following):
                reading = Task(read, following)
            made: list[Made] = []
            if found:
                with guard(job):
                    made.append(compute(job, found.pop()))
            if writing is not None:
                last, writing = writing, None
                yield from _written(*last, guard)
            if made:
                writing = job, Task(write, job, made.pop())
                if reading is None:  # there is no room for two
                    last, writing = writing, None
                    yield from _written(*last, guard)
        if writing is not None:
            last, writing = writing, None
            yield from _written(*last, guard)
    finally:
        if reading is not None:
            reading.stop()
        if writing is not None:
            writing[1].finish()


def _written(
    job: Job, task: Task[Result], guard: Callable[[Job], AbstractContextManager[None]]
) -> Iterator[tuple[Job, Result]]:
    results: list[Result] = []
    try:
        with guard(job):
            results.append(task.result())
    except BaseException:
        task.finish()
        raise
    for result in results:
        yield job, result
