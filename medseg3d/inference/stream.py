"""A whole volume through a network that sees windows, in little memory.

Whatever is finished is interpolated to the native grid, turned into labels and forgotten, so
that beside the image and the labels no more is held than a slab (:mod:`.slab`). The labels are
those of the plain way, which holds all logits at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.data.sides import SAGITTAL
from medseg3d.errors import ModelError
from medseg3d.geometry.resampling import AxisMap
from medseg3d.inference.course import Course, Strip
from medseg3d.inference.network import WindowNetwork
from medseg3d.inference.planes import PlaneSink
from medseg3d.inference.restoration import Restoration
from medseg3d.inference.slab import Slab
from medseg3d.inference.windows import (
    Advance,
    copy_window,
    gaussian_weights,
    inside,
    is_air,
    mirrored,
    mirrorings,
)
from medseg3d.types import Image, LabelMap, Size3

Logits = npt.NDArray[np.float32]
Maps = tuple[AxisMap, AxisMap, AxisMap]

SAMPLED = 8
"""Every so many voxels of a window's logits are looked at, whether they are finite: arithmetic
that overflows in one voxel spoils, by the normalization of the features, nearly all. Across
slices that are seen one by one, which are normalized alone, every one is looked at."""


@dataclass
class Timing:
    """Where the time went.

    Attributes:
        network: Seconds in the network.
        stitch: Seconds of cutting windows and adding their logits.
        restore: Seconds of interpolating to the native grid, and of what takes the planes.
        windows: How many there were.
        skipped: How many of them showed nothing.
    """

    network: float = 0.0
    stitch: float = 0.0
    restore: float = 0.0
    windows: int = 0
    skipped: int = 0

    @contextmanager
    def spent_on(self, stage: str) -> Iterator[None]:
        """Add the time of what is done inside to a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.perf_counter() - begun)


def stream(
    network: WindowNetwork,
    image: Image,
    maps: Maps,
    out: LabelMap,
    values: npt.NDArray[np.integer[Any]] | None,
    *,
    window: Size3,
    overlap: float = 0.5,
    slice_axis: int | None = None,
    mirror_axes: tuple[int, ...] = (),
    mirrored_labels: tuple[int, ...] = (),
    batch_size: int = 1,
    max_slab_bytes: int | None = None,
    threads: int = 1,
    planes: Sequence[PlaneSink] = (),
    advance: Advance | None = None,
) -> Timing:
    """Label a volume.

    Windows that show nothing, every channel being constant, are skipped; voxels that no other
    window covers become background, the first label.

    Args:
        network: Sees windows.
        image: ``(C, i, j, k)`` normalized intensities.
        maps: Where the native voxels lie in the image, per axis.
        out: Native label map ``(I, J, K)``, its axes those of the image; any strides. Only
            voxels that ``maps`` names are written.
        values: Value to write for each logit. None for its number; since then nobody knows how
            many there are, the first window is computed even if it shows nothing.
        window: Voxels per axis that the network sees at once; smaller volumes are padded by 0,
            and one a little larger is seen whole (:func:`.windows.fit_window`).
        overlap: Fraction of a window shared with its neighbor, in ``[0, 1)``.
        slice_axis: Axis across the slices, if the network sees each without its neighbors.
        mirror_axes: Axes whose mirrored copies are averaged.
        mirrored_labels: Logit that each becomes in copies mirrored along the sagittal axis;
            empty if all stay.
        batch_size: Windows that the network gets at once.
        max_slab_bytes: Memory of the slab. Where it would take more, the volume is computed in
            strips, for which some windows are computed twice; it never takes less than
            :func:`.slab.least_slab_bytes`.
        threads: How many add and restore at once.
        planes: Get the logits of every native plane too.
        advance: Told after each window how many are done and how many there are.

    Returns:
        Where the time went.

    Raises:
        ModelError: If the network gives other logits than ``values`` names, or numbers that are
            not finite.
    """
    shape = (image.shape[1], image.shape[2], image.shape[3])
    course = Course.through(shape, window, overlap, divisor=network.divisor, slice_axis=slice_axis)
    window = course.window
    strips = course.strips(1 if values is None else len(values), max_slab_bytes)
    counts = [len(course.places(layer, strip)) for strip in strips for layer in course.layers]
    timing = Timing(windows=sum(counts))
    copies = mirrorings(mirror_axes)
    feed = _Feed(
        *(network, image, window, copies),
        batch_size=batch_size,
        slice_axis=slice_axis,
        timing=timing,
    )
    swapped = np.asarray(mirrored_labels, dtype=np.int64) if mirrored_labels else None
    # one window alone needs no weights, which would cost its logits a rounding
    single = len(strips) == 1 and timing.windows == 1
    weights = np.ones(window, np.float32) if single else gaussian_weights(window, slice_axis)
    done = 0

    def begin(strip: Strip, num_labels: int) -> Restoration:
        slab = Slab(course, strip, num_labels, weights, threads=threads)
        return Restoration(slab, maps, out, values, sinks=planes, threads=threads)

    for strip in strips:
        restoration = None if values is None else begin(strip, len(values))
        for layer, following in pairwise([*course.layers, shape[course.axis]]):
            places = course.places(layer, strip)
            labels = None if restoration is None else restoration.num_labels
            for start, flips, logits in feed(places, labels=labels):
                if logits is not None:
                    with timing.spent_on("stitch"):
                        restoration = restoration or begin(strip, len(logits))
                        channels = swapped if SAGITTAL in flips else None
                        restoration.slab.add(logits, start, flips=flips, channels=channels)
                if logits is None or flips == copies[-1]:
                    done += 1
                    if advance is not None:
                        advance(done, timing.windows)
            assert restoration is not None, "the first window tells the number of labels"
            with timing.spent_on("stitch"):
                restoration.slab.settle(following)
            with timing.spent_on("restore"):
                restoration.advance_to(following)
    return timing


def predict_labels(
    network: WindowNetwork,
    image: Image,
    *,
    window: Size3,
    overlap: float = 0.5,
    slice_axis: int | None = None,
    threads: int = 1,
) -> npt.NDArray[np.uint16]:
    """Number ``(i, j, k)`` of the largest logit on the working grid itself; see :func:`stream`."""
    i, j, k = (AxisMap(0, np.arange(length, dtype=np.float64)) for length in image.shape[1:])
    out = np.zeros(image.shape[1:], np.uint16)
    stream(
        network,
        image,
        (i, j, k),
        out,
        None,
        window=window,
        overlap=overlap,
        slice_axis=slice_axis,
        threads=threads,
    )
    return out


class _Feed:
    """Windows of an image to the network and their logits back, in batches.

    Mirrored copies of a window follow one another, so that the order in which logits are added
    does not depend on the size of the batches.

    Args:
        network: Sees windows.
        image: ``(C, i, j, k)``.
        window: Voxels per axis of a window.
        copies: Axes along which each copy is mirrored.
        batch_size: Windows at once.
        slice_axis: Axis across slices that the network sees one by one, if it does.
        timing: Where the time goes.
    """

    def __init__(
        self,
        network: WindowNetwork,
        image: Image,
        window: Size3,
        copies: Sequence[tuple[int, ...]],
        *,
        batch_size: int,
        slice_axis: int | None,
        timing: Timing,
    ) -> None:
        self._steps = [1 if axis == slice_axis else SAMPLED for axis in range(3)]
        self._network = network
        self._image = image
        self._window = window
        self._copies = copies
        self._batch = np.empty((batch_size, len(image), *window), np.float32)
        self._timing = timing

    def __call__(
        self, places: Sequence[Size3], *, labels: int | None
    ) -> Iterator[tuple[Size3, tuple[int, ...], Logits | None]]:
        """Start, mirrored axes and logits ``(L, i, j, k)`` of each copy of each window.

        Logits are valid until the next; None for a window that shows nothing.

        Args:
            places: First voxels of the windows.
            labels: Logits that are expected; None if that is not known, then the first window
                is computed in any case.
        """
        waiting: list[tuple[Size3, tuple[int, ...]]] = []
        for number, start in enumerate(places):
            with self._timing.spent_on("stitch"):
                air = is_air(self._image[inside(self._image, start, self._window)])
            if air and (labels is not None or number > 0):
                self._timing.skipped += 1
                yield start, (), None
                continue
            for flips in self._copies:
                with self._timing.spent_on("stitch"):
                    copy_window(self._image, start, mirrored(self._batch[len(waiting)], flips))
                waiting.append((start, flips))
                if len(waiting) == len(self._batch):
                    yield from self._logits(waiting, labels)
                    waiting = []
        if waiting:
            yield from self._logits(waiting, labels)

    def _logits(
        self, waiting: Sequence[tuple[Size3, tuple[int, ...]]], labels: int | None
    ) -> Iterator[tuple[Size3, tuple[int, ...], Logits]]:
        with self._timing.spent_on("network"):
            batch = self._network(self._batch[: len(waiting)])
        if labels is not None and batch.shape[1] != labels:
            raise ModelError(
                f"the network gives {batch.shape[1]} logits per voxel where {labels} labels are "
                "named; export or train the model again"
            )
        i, j, k = (slice(None, None, step) for step in self._steps)
        if not np.isfinite(batch[..., i, j, k]).all():
            raise ModelError(
                f"the network gives values that are not finite numbers ({self._network.backend}, "
                f"{self._network.precision}); use --precision fp32, or train the model again"
            )
        for (start, flips), logits in zip(
            waiting, np.require(batch, np.float32, ["C", "W"]), strict=True
        ):
            yield start, flips, logits
