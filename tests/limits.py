"""What a piece of work may take, whatever else the machine does meanwhile."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

BUSY = 10
"""How many times longer than on a free machine it may take by the clock."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Fail if the block uses more processor time, or by the clock never seems to end.

    Args:
        seconds: Of the processors, all threads of this process together.
    """
    processors, clock = time.process_time(), time.monotonic()
    yield
    used, passed = time.process_time() - processors, time.monotonic() - clock
    assert used < seconds, f"{used:.1f} s of the processors, {passed:.1f} s by the clock"
    assert passed < BUSY * seconds, f"{passed:.1f} s by the clock"
