"""Work on many cases in a few threads that nobody has to wait for long."""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

PATIENCE = 5.0
"""Seconds that threads are given to end in, when they are no longer needed."""

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], items: Sequence[T], *, threads: int = 2) -> Iterator[R]:
    """Results in the order of the items.

    Unlike an executor's ``map`` this ends soon when the caller is interrupted or an item fails:
    nothing new is begun, and after an interrupt the calls that are running are stopped between
    two steps of Python.

    Args:
        function: Called in other threads, on several items at once.
        items: What to work on.
        threads: How many.

    Raises:
        Exception: The first, in the order of the items, that ``function`` raised.

    Examples:
        >>> list(in_threads(abs, [-3, 4, -5]))
        [3, 4, 5]
    """
    todo = iter(enumerate(items))
    turn = threading.Lock()
    stop = threading.Event()
    done: SimpleQueue[tuple[int, Callable[[], R]]] = SimpleQueue()

    def work() -> None:
        while not stop.is_set():
            with turn:
                number, item = next(todo, (-1, None))
            if number < 0:
                return
            outcome, failed = _outcome(function, item)  # type: ignore[arg-type]
            done.put((number, outcome))
            if failed:  # all items before this one have been begun
                stop.set()

    at_work = [threading.Thread(target=work, daemon=True) for _ in items[:threads]]
    for thread in at_work:
        thread.start()
    early: dict[int, Callable[[], R]] = {}
    try:
        for number in range(len(items)):
            while number not in early:
                found, outcome = done.get()
                early[found] = outcome
            yield early.pop(number)()
    except (KeyboardInterrupt, GeneratorExit):
        _stop(at_work)
        raise
    finally:
        stop.set()
        deadline = time.monotonic() + PATIENCE
        for thread in at_work:
            thread.join(max(0.0, deadline - time.monotonic()))


class Task(Generic[R]):
    """A call under way in a thread of its own.

    Args:
        function: What to call.
        *arguments: With what.

    Examples:
        >>> Task(abs, -3).result()
        3
    """

    def __init__(self, function: Callable[..., R], *arguments: Any) -> None:
        self._done: SimpleQueue[Callable[[], R]] = SimpleQueue()

        def work() -> None:
            self._done.put(_outcome(lambda given: function(*given), arguments)[0])

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def result(self) -> R:
        """Wait for the end; call it once.

        Raises:
            Exception: Whatever the call raised.
        """
        outcome = self._done.get()
        self._thread.join()
        return outcome()

    def finish(self) -> None:
        """Let it come to its end, but do not wait long; what it returns or raises is lost."""
        self._thread.join(PATIENCE)
        self.stop()

    def stop(self) -> None:
        """Stop it between two steps of Python and wait for that, but not for long."""
        _stop([self._thread])
        self._thread.join(PATIENCE)


def _stop(threads: Sequence[threading.Thread]) -> None:
    """Raise SystemExit in threads, since one inside a library at the end may crash the process."""
    for thread in threads:
        if thread.is_alive() and thread.ident is not None:
            place, error = ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(place, error)


def _outcome(function: Callable[[T], R], item: T) -> tuple[Callable[[], R], bool]:
    try:
        result = function(item)
    except BaseException as error:
        caught = error

        def fail() -> R:
            raise caught

        return fail, True
    return lambda: result, False
