"""Metrics: ``metric(prediction, reference, spacing, ...) -> float`` in a stated unit."""

from collections.abc import Callable

from medseg3d.registry import Registry

METRICS: Registry[Callable[..., float]] = Registry("metric", __name__)
