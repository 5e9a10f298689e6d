"""Hot loops in machine code, compiled once and kept on disk."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numba

Function = Callable[..., Any]


def compiled(function: Function) -> Function:
    """The function in machine code, which lets other threads run beside it.

    It is kept where the package or the user's cache folder can be written, else compiled anew in
    each process. A product and a sum may be rounded once instead of twice.
    """
    machine_code = partial(numba.njit, nogil=True, error_model="numpy", fastmath={"contract"})
    try:
        return cast(Function, machine_code(cache=True)(function))
    except RuntimeError:  # neither folder can be written
        return cast(Function, machine_code()(function))
