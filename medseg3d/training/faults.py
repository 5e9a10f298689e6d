"""What stopped the training, in one sentence with a remedy."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from medseg3d import errors
from medseg3d.errors import MedSeg3DError, RunError
from medseg3d.machine import in_words, memory_limit
from medseg3d.process import out_of_memory

ENDED = "DataLoader worker (pid"
FROM_WORKER = re.compile(r"^Caught (\w+) in DataLoader worker process")
LACKS_MAIN_GUARD = "before the current process has finished its bootstrapping"

CAUSES = {
    "Killed": ", probably because memory ran out; give --workers 0, or a machine with more memory",
    "Bus error": ", because shared memory (/dev/shm) is full; give --workers 0, or more of it "
    "(docker run --shm-size)",
}


def explained(
    error: Exception, *, cases: Sequence[str], ahead: Sequence[str], ended: str | None = None
) -> MedSeg3DError | None:
    """The sentence for an error that stopped the training; None if it is a bug.

    Args:
        error: As it came out of torch.
        cases: Those of the batch in hand.
        ahead: Those that data workers may have been preparing.
        ended: How a data worker ended, if one did by itself.
    """
    if FROM_WORKER.search(str(error)):
        return worker_fault(error, ahead, ended)
    if isinstance(error, MedSeg3DError):
        return error
    if out_of_memory(error):
        where = f"on cases {', '.join(cases)}" if cases else "before the first step"
        return _out_of_memory(
            error,
            f"training {where}",
            "begin a run with --set batch_size=1 or a smaller --set memory_gb (beside --set plan "
            "with a smaller batch_size or patch_size in that file), or end other programs and "
            "resume",
        )
    return worker_fault(error, ahead, ended)


@contextmanager
def enough_memory(work: str, remedy: str) -> Iterator[None]:
    """Turn a lack of memory inside into one sentence.

    Args:
        work: What is being done, ``"preprocessing case x"``.
        remedy: What to do about it.

    Raises:
        RunError: Instead of whatever the library raised.

    Examples:
        >>> with enough_memory("reading case x", "leave it out"):  # doctest: +ELLIPSIS
        ...     raise MemoryError("Unable to allocate 3 GiB")
        Traceback (most recent call last):
        ...
        medseg3d.errors.RunError: memory ran out while reading case x (Unable to allocate 3 GiB...
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise _out_of_memory(error, work, remedy) from error


def _out_of_memory(error: Exception, work: str, remedy: str) -> RunError:
    detail = " ".join(str(error).split())[:200].rstrip(". ") or "no more memory"
    if not isinstance(error, torch.OutOfMemoryError):  # which tells of the memory of a GPU
        detail += f"; this process may hold {in_words(memory_limit())}"
    return RunError(f"memory ran out while {work} ({detail}); {remedy}")


def worker_fault(
    error: BaseException, cases: Sequence[str], ended: str | None = None
) -> MedSeg3DError | None:
    """What happened to a process that prepares patches, if that is what the error says.

    Args:
        error: As it came out of torch.
        cases: Those that the workers may have had in hand.
        ended: How one of them ended, if one did by itself.
    """
    text = str(error)
    in_hand = f"while it prepared patches of cases {', '.join(cases)}" if cases else "at work"
    if told := FROM_WORKER.search(text):
        kind, last_line = told[1], text.strip().splitlines()[-1]
        ours = getattr(errors, kind, None)
        if isinstance(ours, type) and issubclass(ours, MedSeg3DError):
            return ours(last_line.partition(": ")[2] or last_line)
        if kind == "MemoryError" or out_of_memory(RuntimeError(last_line)):
            return RunError(
                f"memory ran out in a data worker {in_hand} ({last_line}); give --workers 0, or a "
                "machine with more memory"
            )
        return None
    if ended is not None or ENDED in text or isinstance(error, (ConnectionError, EOFError)):
        return RunError(f"{ended or 'a data worker died'} {in_hand}{_cause(ended or text)}")
    if text.startswith("DataLoader timed out"):
        return RunError(
            f"no patch came from the data workers for a long time {in_hand}; see whether the disk "
            "of the cache answers, or give --workers 0"
        )
    if LACKS_MAIN_GUARD in text:
        return RunError(
            "data workers cannot start, because the calling script runs at its top level; put its "
            'code under if __name__ == "__main__":, or set workers=0'
        )
    return None


def _cause(ended: str) -> str:
    known = (cause for word, cause in CAUSES.items() if word in ended)
    return next(known, "; give --workers 0")
