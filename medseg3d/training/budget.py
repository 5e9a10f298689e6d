"""How long training may go on, and the learning rate that fits it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Steps or seconds; exactly one is given.

    Attributes:
        steps: Optimizer steps in all.
        seconds: Wall time in all, validation included, but not what it takes to measure beforehand
            what a validation costs.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        assert (self.steps is None) != (self.seconds is None), "one of steps and seconds"

    def used(self, steps: int, seconds: float) -> float:
        """Fraction of the budget that is used up, 1 at its end.

        Examples:
            >>> Budget(steps=200).used(50, 1e9)
            0.25
            >>> Budget(seconds=60.0).used(3, 90.0)
            1.0
        """
        if self.steps is not None:
            return min(1.0, steps / self.steps)
        assert self.seconds is not None
        return min(1.0, seconds / self.seconds)


def learning_rate(used: float, *, peak: float, warmup: float, power: float) -> float:
    """Linear rise to ``peak``, then a polynomial fall to 0 at the budget's end.

    Args:
        used: Fraction of the budget that is used up.
        peak: Highest learning rate.
        warmup: Fraction of the budget that the rise takes.
        power: Exponent of the fall; 1 is a straight line.

    Examples:
        >>> round(learning_rate(0.55, peak=1.0, warmup=0.1, power=1.0), 6)
        0.5
        >>> learning_rate(1.0, peak=1.0, warmup=0.1, power=0.9)
        0.0
    """
    if used < warmup:
        return float(peak * max(used / warmup, 0.01))
    return float(peak * max(0.0, (1 - used) / (1 - warmup)) ** power)
