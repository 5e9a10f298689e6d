"""What every backend offers: a batch of windows in, logits out."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from medseg3d.device import Precision
from medseg3d.types import Size3


class WindowNetwork(Protocol):
    """A network that is ready to compute, wherever and however it does.

    Attributes:
        backend: Registered name of the backend, such as ``openvino``.
        precision: Arithmetic it computes in.
        divisor: It pads windows to multiples of these, if they are none.
    """

    @property
    def backend(self) -> str:
        """Registered name."""

    @property
    def precision(self) -> Precision:
        """Arithmetic."""

    @property
    def divisor(self) -> Size3:
        """It pads windows to multiples of these."""

    def __call__(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of some windows.

        Args:
            batch: ``(B, C, i, j, k)``, C-contiguous.

        Returns:
            ``(B, L, i, j, k)`` float32; the next call may overwrite it.
        """
