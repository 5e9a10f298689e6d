"""A predicted and a reference mask, and the decorator that makes a metric of a function of them.

A metric is written once, for a :class:`MaskPair`, which keeps what several metrics need, and
is called either way::

    dice(prediction, reference, spacing)      # a plain function
    dice.of(masks)                            # with what was found out for another metric
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import update_wrapper
from inspect import signature
from math import prod
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar

import numpy as np

from medseg3d.errors import DataError
from medseg3d.metrics import METRICS
from medseg3d.metrics.columns import unit_word
from medseg3d.types import Mask, Spacing

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Better = Literal["higher", "lower", "zero"]


@dataclass(frozen=True)
class Counts:
    """Voxels of two masks that agree and that do not.

    Examples:
        >>> Counts(6, false_positives=2, false_negatives=1, true_negatives=9).union
        9
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def predicted(self) -> int:
        """Voxels of the prediction."""
        return self.true_positives + self.false_positives

    @property
    def expected(self) -> int:
        """Voxels of the reference."""
        return self.true_positives + self.false_negatives

    @property
    def union(self) -> int:
        """Voxels of either."""
        return self.true_positives + self.false_positives + self.false_negatives

    @property
    def total(self) -> int:
        """Voxels of the image, as far as it is annotated."""
        return self.union + self.true_negatives


@dataclass(frozen=True, eq=False)
class MaskPair:
    """Two masks of one structure on one grid.

    Attributes:
        prediction: Predicted mask, ``(I, J, K)`` bool.
        reference: Reference mask, same shape and grid.
        spacing: Voxel size in mm along each array axis; None where no metric needs it.
        image_shape: Shape of the image, if the masks are a box cut out of it.
        voxel_volume_mm3: Volume of a voxel, by default the product of the spacing; they differ
            on sheared grids.
        known_counts: Voxel counts, where they are known already.

    Raises:
        DataError: If the masks are not boolean, differ in shape, or the spacing does not fit.
    """

    prediction: Mask
    reference: Mask
    spacing: Spacing | None = None
    image_shape: tuple[int, ...] | None = None
    voxel_volume_mm3: float | None = None
    known_counts: Counts | None = None
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_masks(self.prediction, self.reference)
        if self.spacing is None:
            return
        size = np.asarray(self.spacing, dtype=np.float64)
        axes = self.prediction.ndim
        if size.shape != (axes,) or not (np.isfinite(size).all() and (size > 0).all()):
            raise DataError(
                f"spacing must be {axes} lengths in mm above 0, one per axis, got {self.spacing}"
            )

    @property
    def flat_axes(self) -> tuple[int, ...]:
        """Axes along which the image is one voxel thick: there its border is no border of masks.

        None of a single voxel, nor of one row.

        Examples:
            >>> disc = np.ones((9, 9, 1), dtype=bool)
            >>> MaskPair(disc, disc).flat_axes
            (2,)
        """
        shape = self.image_shape or self.prediction.shape
        flat = tuple(axis for axis, size in enumerate(shape) if size == 1)
        return flat if len(shape) - len(flat) >= 2 else ()

    def without_flat_axes(self) -> "MaskPair":
        """The masks in the plane of an image of one slice; any others as they are."""
        flat = self.flat_axes
        if not flat:
            return self

        def left(values: Sequence[T]) -> tuple[T, ...]:
            return tuple(value for axis, value in enumerate(values) if axis not in flat)

        return replace(
            self,
            prediction=self.prediction.squeeze(flat),
            reference=self.reference.squeeze(flat),
            spacing=None if self.spacing is None else left(self.spacing),  # type: ignore[arg-type] # two axes
            image_shape=None if self.image_shape is None else left(self.image_shape),
            voxel_volume_mm3=None if self.spacing is None else self.voxel_ml * 1000.0,
            _kept={},
        )

    def once(self, function: Callable[..., R], **options: Any) -> R:
        """``function(self, **options)``, worked out at the first call and kept."""
        key = (function, *sorted(options.items()))
        if key not in self._kept:
            self._kept[key] = function(self, **options)
        kept: R = self._kept[key]
        return kept

    @property
    def counts(self) -> Counts:
        """Voxels that agree and that do not."""
        return self.known_counts or self.once(_count)

    @property
    def voxel_size(self) -> Spacing:
        """The spacing in mm.

        Raises:
            DataError: If there is none.
        """
        if self.spacing is None:
            raise DataError(
                "this metric needs the spacing in mm; give spacing=(1, 1, 1) for voxels"
            )
        return self.spacing

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in mL."""
        mm3 = self.voxel_volume_mm3
        return (prod(self.voxel_size) if mm3 is None else mm3) / 1000.0


def _count(masks: MaskPair) -> Counts:
    shared = int(np.count_nonzero(masks.prediction & masks.reference))
    false_positives = int(np.count_nonzero(masks.prediction)) - shared
    false_negatives = int(np.count_nonzero(masks.reference)) - shared
    total = prod(masks.image_shape or masks.prediction.shape)
    return Counts(
        shared, false_positives, false_negatives, total - shared - false_positives - false_negatives
    )


def check_masks(prediction: Mask, reference: Mask) -> None:
    """Refuse masks that cannot be compared voxel by voxel.

    Raises:
        DataError: If the masks are not boolean or differ in shape.
    """
    for mask in (prediction, reference):
        if mask.dtype != np.bool_:
            raise DataError(
                f"a mask must be boolean, found {mask.dtype}; compare the label map with one "
                "label first, for example labels == 1"
            )
    if prediction.shape != reference.shape:
        raise DataError(
            f"masks differ in shape: prediction {prediction.shape}, reference {reference.shape}; "
            "bring both to one grid first"
        )


class MaskMetric(Generic[P]):
    """A metric of two masks; see :func:`metric`.

    Attributes:
        of: The metric of a :class:`MaskPair`.
    """

    def __init__(self, function: Callable[Concatenate[MaskPair, P], float]) -> None:
        self.of = function
        update_wrapper(self, function)
        _, *options = signature(function).parameters.values()
        plain = signature(MaskMetric.__call__).parameters
        masks = [plain[name] for name in ("prediction", "reference", "spacing")]
        self.__signature__ = signature(function).replace(parameters=[*masks, *options])

    def __call__(
        self,
        prediction: Mask,
        reference: Mask,
        spacing: Spacing | None = None,
        *args: P.args,
        **options: P.kwargs,
    ) -> float:
        """The metric of two masks ``(I, J, K)`` with the spacing in mm along each axis.

        Raises:
            DataError: If the masks are not boolean, differ in shape, or the spacing does not fit.
        """
        return self.of(MaskPair(prediction, reference, spacing), *args, **options)


def metric(
    name: str, *, unit: str, better: Better, definition: str, source: str, column: str | None = None
) -> Callable[[Callable[Concatenate[MaskPair, P], float]], MaskMetric[P]]:
    """Register a function of a :class:`MaskPair` as a metric.

    Args:
        name: Name in the registry.
        unit: ``"1"``, ``"mm"``, ``"mL"``, ``"%"``.
        better: Which values are the better ones.
        definition: One line for tables and files, with what it is for empty masks.
        source: Paper or other origin, with its DOI where there is one.
        column: Heading in tables, with ``{option}`` where an option's value goes; by default the
            name and the unit.
    """

    def add(function: Callable[Concatenate[MaskPair, P], float]) -> MaskMetric[P]:
        made = MaskMetric(function)
        heading = column or f"{name}_{unit_word(unit)}".rstrip("_")
        METRICS.register(
            name,
            of="masks",
            unit=unit,
            better=better,
            definition=definition,
            source=source,
            column=heading,
        )(made)
        return made

    return add
