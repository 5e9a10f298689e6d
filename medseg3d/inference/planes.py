"""What is made of the logits beside labels: probabilities and uncertainty.

16 bits per number, ``round(65535 p)``: NIfTI has no half precision, and these are finer than
that above 0.03. The planes come in the order in which they are finished, so they are collected
in a file without a name beside the target, which vanishes with the process whatever happens.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt

from medseg3d.data.preprocess import Placement
from medseg3d.errors import RunError
from medseg3d.io import Volume, write_scaled
from medseg3d.io.atomic import reason_of

Logits = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.uint16]

ONE = 65535
"""What stands for 1."""

CHUNK = 1 << 17
"""Logits that are worked on at once, few enough to stay in a processor's cache."""


class PlaneSink(Protocol):
    """Takes the logits of native planes."""

    def take(self, axis: int, index: int, corner: tuple[int, int], logits: Logits) -> None:
        """Take a part of a plane; several threads may bring different parts at once.

        Args:
            axis: Voxel axis across the plane, in RAS+ order.
            index: The plane's voxel along it.
            corner: First voxel of the part along the other two axes, ascending.
            logits: ``(L, A, B)``; valid until this returns.
        """


class PlaneFile(ABC):
    """Numbers from 0 to 1 per voxel, to be written as an image.

    Args:
        path: Target.
        placement: Where the planes lie in the native image.
        channels: Numbers per voxel.
        outside: Of each channel, where no plane is taken.

    Raises:
        RunError: If nothing can be written beside the target.
    """

    def __init__(
        self, path: Path, placement: Placement, channels: int, *, outside: npt.NDArray[np.bool_]
    ) -> None:
        self.path = path
        self._placement = placement
        self._outside = np.where(outside, ONE, 0).astype(np.uint16)
        self._shape = (channels, *placement.canonical_shape)
        self._axis: int | None = None
        self._turn = Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - until written
        except OSError as error:
            raise self._refusal(error) from error
        self._close = weakref.finalize(self, self._file.close)

    @abstractmethod
    def numbers(self, logits: Logits) -> Numbers:
        """What to keep of logits ``(L, A, B)``: ``(channels, A, B)``."""

    def take(self, axis: int, index: int, corner: tuple[int, int], logits: Logits) -> None:
        """See :class:`PlaneSink`; all planes must lie across the same axis.

        Raises:
            RunError: If the disk is full.
        """
        with self._turn:
            if self._axis is None:
                self._axis = axis
                self._fill()
        assert axis == self._axis, "a volume is streamed along one axis"
        numbers = self.numbers(logits)
        _, depth, rows, columns = self._stored_shape()
        first, left = corner
        whole = range(*self._placement.part[self._across()[1]].indices(columns))
        if len(whole) == numbers.shape[2]:  # no strip: whole rows are written faster
            numbers = self._widened(numbers, left, columns)
            left = 0
        for channel, plane in enumerate(numbers):
            place = ((channel * depth + index) * rows + first) * columns + left
            if plane.shape[1] == columns:
                self._put(plane, place)
                continue
            for number, row in enumerate(plane):
                self._put(row, place + number * columns)

    def array(self) -> Numbers:
        """All numbers ``(channels, I, J, K)`` in RAS+ order, mapped from the disk."""
        if self._axis is None:
            self._axis = 0
            self._fill()
        shape = self._stored_shape()
        mapped = mmap.mmap(self._file.fileno(), 2 * int(np.prod(shape)), access=mmap.ACCESS_READ)
        stored = np.frombuffer(mapped, np.uint16).reshape(shape)
        return np.moveaxis(stored, 1, self._axis + 1)

    def write(self, like: Volume) -> None:
        """Write the image and forget what was collected.

        Args:
            like: The native image, for its grid.

        Raises:
            RunError: If the target cannot be written.
        """
        native = self._placement.reorientation.invert(self.array())
        write_scaled(self.path, native, like, slope=1 / ONE)
        self._close()

    def _stored_shape(self) -> tuple[int, int, int, int]:
        assert self._axis is not None
        a, b = self._across()
        channels, *shape = self._shape
        return channels, shape[self._axis], shape[a], shape[b]

    def _across(self) -> tuple[int, int]:
        a, b = (axis for axis in range(3) if axis != self._axis)
        return a, b

    def _fill(self) -> None:
        """Make the file as long as it will be, with what stands outside of all planes."""
        plane = np.prod(self._stored_shape()[2:])
        depth = self._stored_shape()[1]
        try:
            os.truncate(self._file.fileno(), 2 * int(plane) * depth * len(self._outside))
        except OSError as error:
            raise self._refusal(error) from error
        for channel in np.flatnonzero(self._outside).tolist():
            for index in range(depth):
                background = np.full(plane, self._outside[channel])
                self._put(background, (channel * depth + index) * int(plane))

    def _widened(self, numbers: Numbers, left: int, columns: int) -> Numbers:
        if numbers.shape[2] == columns:
            return numbers
        wide = np.empty((*numbers.shape[:2], columns), np.uint16)
        wide[...] = self._outside[:, None, None]
        wide[:, :, left : left + numbers.shape[2]] = numbers
        return wide

    def _put(self, numbers: Numbers, place: int) -> None:
        left = np.ascontiguousarray(numbers).data.cast("B")
        offset = 2 * place
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, offset)
                left, offset = left[written:], offset + written
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> RunError:
        return RunError(f"{self.path} cannot be written: {reason_of(error)}")


class Probabilities(PlaneFile):
    """The softmax of the logits, one channel per label; background where nothing is taken.

    Args:
        path: Target.
        placement: Where the planes lie in the native image.
        num_labels: Logits per voxel.
    """

    def __init__(self, path: Path, placement: Placement, num_labels: int) -> None:
        super().__init__(path, placement, num_labels, outside=np.arange(num_labels) == 0)

    def numbers(self, logits: Logits) -> Numbers:
        """Probabilities ``(L, A, B)``."""
        found = np.empty(logits.shape, np.uint16)
        for rows in _chunks(logits):
            shares = logits[:, rows] - logits[:, rows].max(axis=0)
            np.exp(shares, out=shares)
            shares *= ONE / shares.sum(axis=0)
            found[:, rows] = np.rint(shares, out=shares)
        return found


class Entropy(PlaneFile):
    """The entropy of the softmax over its largest value, log L; 0 where nothing is taken.

    Args:
        path: Target.
        placement: Where the planes lie in the native image.
        num_labels: Logits per voxel.
    """

    def __init__(self, path: Path, placement: Placement, num_labels: int) -> None:
        super().__init__(path, placement, 1, outside=np.zeros(1, np.bool_))
        self._largest = max(np.log(num_labels), np.finfo(np.float32).tiny)

    def numbers(self, logits: Logits) -> Numbers:
        """Entropy ``(1, A, B)``."""
        found = np.empty((1, *logits.shape[1:]), np.uint16)
        for rows in _chunks(logits):
            below = logits[:, rows] - logits[:, rows].max(axis=0)
            powers = np.exp(below)
            total = powers.sum(axis=0)
            # -sum p log p with p = e^x / total, where log p = x - log total
            powers *= below
            entropy = (np.log(total) - powers.sum(axis=0) / total) / self._largest
            found[0, rows] = np.rint(ONE * entropy.clip(0, 1))
        return found


def _chunks(logits: Logits) -> list[slice]:
    """Rows of ``(L, A, B)`` in parts that fit a cache."""
    step = max(1, CHUNK // (logits.shape[0] * logits.shape[2]))
    return [slice(first, first + step) for first in range(0, logits.shape[1], step)]
