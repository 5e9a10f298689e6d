"""From stored intensities to those that a network sees."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg3d.data.plan import Normalization
from medseg3d.data.threads import in_threads

LARGEST = float(np.finfo(np.float16).max)
"""Normalized intensities end here, in the cache and in half precision."""

LARGEST_EXPONENT = 100
"""Differences of intensities beyond this power of two may leave float32."""


@dataclass(frozen=True)
class ClipAndScale:
    """Clips to a range, then takes the set's mean and standard deviation, as for CT."""

    rule: Normalization

    def __call__(self, intensities: npt.NDArray[np.float32]) -> None:
        """Change float32 intensities in place."""
        rule = self.rule
        np.clip(intensities, rule.lower, rule.upper, out=intensities)
        intensities -= np.float32(rule.mean)
        intensities /= np.float32(rule.sd)


@dataclass(frozen=True)
class ZScore:
    """The distance from the mean in standard deviations; no spread at all becomes 0.

    Attributes:
        mean: Mean of the intensities times ``2 ** -exponent``.
        sd: Their standard deviation, scaled alike; 0 if they are all equal.
        exponent: Power of two that keeps differences within float32; a z-score knows no unit.
    """

    mean: float
    sd: float
    exponent: int = 0

    def __call__(self, intensities: npt.NDArray[np.float32]) -> None:
        """Change float32 intensities in place."""
        if self.sd == 0:
            intensities[...] = 0
            return
        if self.exponent:
            np.ldexp(intensities, -self.exponent, out=intensities)
        intensities -= np.float32(self.mean)
        intensities /= np.float32(self.sd)
        np.clip(intensities, -LARGEST, LARGEST, out=intensities)


Scaling = ClipAndScale | ZScore

LITTLE = 1 << 18
"""Voxels up to which more than one thread gains nothing."""


@dataclass(frozen=True)
class Moments:
    """Number, mean, sum of squared distances from it, and ends of some intensities."""

    voxels: int = 0
    mean: float = 0.0
    squares: float = 0.0
    lowest: float = np.inf
    highest: float = -np.inf

    @property
    def sd(self) -> float:
        """Standard deviation; 0 of nothing."""
        return float(np.sqrt(self.squares / max(1, self.voxels)))

    def __add__(self, other: "Moments") -> "Moments":
        voxels = self.voxels + other.voxels
        if not voxels:
            return self
        shift, share = other.mean - self.mean, other.voxels / voxels
        return Moments(
            voxels,
            self.mean + shift * share,
            self.squares + other.squares + shift**2 * self.voxels * share,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
        )


def moments(channel: npt.NDArray[Any], *, threads: int = 1) -> Moments:
    """Statistics of the voxels of ``(I, J, K)`` that are not zero.

    They are taken in float64, plane by plane, and merged as in [1]_.

    References:
        .. [1] Chan et al., "Algorithms for computing the sample variance", Am. Stat. 37, 1983.
           https://doi.org/10.1080/00031305.1983.10483115
    """
    order = sorted(range(3), key=lambda axis: -abs(channel.strides[axis]))
    planes = list(channel.transpose(order))
    if threads > 1 and channel.size > LITTLE:
        return sum(in_threads(_moments, planes, threads=threads), start=Moments())
    return sum(map(_moments, planes), start=Moments())


def scaling_of(channel: npt.NDArray[Any], rule: Normalization, *, threads: int = 1) -> Scaling:
    """How to scale one channel ``(I, J, K)``; a z-score is that of what is not zero.

    Where that has no spread, as in a mask of 0 and 1, the zeros count too if the rule says so.
    """
    if rule.scheme == "ct":
        return ClipAndScale(rule)
    found = moments(channel, threads=threads)
    if rule.masks and found.lowest >= found.highest and found.voxels < channel.size:
        found += Moments(channel.size - found.voxels, lowest=0.0, highest=0.0)
    if found.lowest >= found.highest:
        return ZScore(0.0, 0.0)
    exponent = int(np.frexp(np.float32(max(-found.lowest, found.highest)))[1])
    exponent = exponent if abs(exponent) > LARGEST_EXPONENT else 0
    mean, sd = np.ldexp((found.mean, found.sd), -exponent).tolist()
    return ZScore(mean, sd, exponent)


def _moments(plane: npt.NDArray[Any]) -> Moments:
    inside = plane.astype(np.float32).astype(np.float64).ravel(order="K")
    if not inside.all():
        inside = inside[inside != 0]
    if not inside.size:
        return Moments()
    mean, ends = float(inside.mean()), (float(inside.min()), float(inside.max()))
    inside -= mean
    np.square(inside, out=inside)
    return Moments(inside.size, mean, float(inside.sum()), *ends)
