"""Whether a faster arithmetic leaves the labels as they are.

Evidence comes from the bundle, for which ``fit`` compared Dice on its held-out cases. A bundle
without it is tried on the first windows of the first case.
"""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg3d.bundle import Bundle
from medseg3d.device import Precision
from medseg3d.errors import RunError
from medseg3d.inference.network import WindowNetwork
from medseg3d.io import atomic
from medseg3d.types import Size3

log = logging.getLogger("medseg3d")

TELLING_WINDOWS = 4
"""Windows with something in them that must agree."""

VAIN_WINDOWS = 8
"""Windows of background only that are computed twice, in the hope that they are telling."""

LEAST_AGREEMENT = 0.999
"""Voxels whose labels must be equal, as a part of all."""

LEAST_OVERLAP = 0.9
"""The same as a part of the foreground of either, so that small structures count too."""


def sound_precision(bundle: Bundle, fastest: Precision) -> Precision:
    """The fastest arithmetic of this machine, or fp32 if ``fit`` found that it changes Dice."""
    if bundle.accepts(fastest) is False:
        change = bundle.dice_changes[fastest]  # type: ignore[index] # fp32 is always accepted
        log.info(
            "%s changed the mean Dice by %+.4f in validation, so fp32 is used", fastest, change
        )
        return "fp32"
    return fastest


def is_doubtful(bundle: Bundle, precision: Precision) -> bool:
    """Whether nobody has compared that arithmetic with fp32 yet."""
    return bundle.accepts(precision) is None


class Memory:
    """What trials found, in a file beside the conversions of a model.

    Args:
        path: The file; it may be removed at any time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def recall(self, what: str) -> bool | None:
        """Whether that passed its trial, if anybody remembers."""
        found = self._all().get(what)
        return found if isinstance(found, bool) else None

    def keep(self, what: str, passed: bool) -> None:
        """Remember it, if the folder can be written."""
        content = json.dumps(self._all() | {what: passed}, indent=1)
        with suppress(RunError), atomic(self.path) as beside:
            beside.write_text(content, encoding="utf-8")

    def _all(self) -> dict[str, object]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


class Trial:
    """Two arithmetics of one network, until the first windows have told which to take.

    Until then logits are those of fp32. Windows that are all background tell little: after
    some of them, the fast network sees only those in which the exact one finds something.

    Args:
        exact: The network in fp32.
        fast: The same in the arithmetic to try.
        on_verdict: Told whether the fast one passed, once that many windows have told.
    """

    def __init__(
        self,
        exact: WindowNetwork,
        fast: WindowNetwork,
        on_verdict: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._on_verdict = on_verdict
        self._chosen = exact
        self._tried: WindowNetwork | None = fast
        self._telling = self._vain = 0
        self._voxels = self._equal = self._foreground = self._equal_foreground = 0

    @property
    def is_over(self) -> bool:
        """Whether the first windows have told."""
        return self._tried is None

    @property
    def backend(self) -> str:
        """Registered name."""
        return self._chosen.backend

    @property
    def precision(self) -> Precision:
        """Arithmetic of the logits that are returned at present."""
        return self._chosen.precision

    @property
    def divisor(self) -> Size3:
        """Edges of windows are multiples of these."""
        return self._chosen.divisor

    def __call__(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits ``(B, L, i, j, k)`` of windows ``(B, C, i, j, k)``."""
        logits = self._chosen(batch)
        if self._tried is not None:
            expected = logits.argmax(axis=1)
            if self._vain < VAIN_WINDOWS or expected.any():
                found = self._tried(batch).argmax(axis=1)
                for pair in zip(expected, found, strict=True):
                    self._compare(*pair)
            if self._telling >= TELLING_WINDOWS:
                self._decide(self._tried)
        return logits

    def settle(self) -> None:
        """Decide on the windows so far, if any of them was telling."""
        if self._tried is not None and self._telling:
            self._decide(self._tried)

    def _compare(self, expected: npt.NDArray[np.intp], found: npt.NDArray[np.intp]) -> None:
        equal = expected == found
        foreground = (expected != 0) | (found != 0)
        if not foreground.any():
            self._vain += 1
            return
        self._telling += 1
        self._voxels += equal.size
        self._equal += int(np.count_nonzero(equal))
        self._foreground += int(np.count_nonzero(foreground))
        self._equal_foreground += int(np.count_nonzero(equal & foreground))

    def _decide(self, tried: WindowNetwork) -> None:
        agreement = self._equal / self._voxels
        overlap = self._equal_foreground / self._foreground
        passed = agreement >= LEAST_AGREEMENT and overlap >= LEAST_OVERLAP
        if self._telling >= TELLING_WINDOWS:  # a small case decides for now, not for good
            self._on_verdict(passed)
        if passed:
            log.info(
                "%s gives the labels of fp32 in %.2f %% of voxels", tried.precision, 100 * agreement
            )
            self._chosen = tried
        else:
            log.warning(
                "in the first windows %s gives other labels than fp32 in %.2f %% of all voxels "
                "and %.0f %% of the foreground, so fp32 is used, which is slower",
                tried.precision,
                100 * (1 - agreement),
                100 * (1 - overlap),
            )
        self._tried = None


class TrialOverError(Exception):
    """The first windows have told which arithmetic to take."""


class UntilOver:
    """A network on trial, up to the window that decides.

    Args:
        network: A :class:`Trial`, or several networks with one among them.
    """

    def __init__(self, network: WindowNetwork) -> None:
        self._network = network
        self._undecided = _trials(network)

    @property
    def backend(self) -> str:
        """Registered name."""
        return self._network.backend

    @property
    def precision(self) -> Precision:
        """Arithmetic of the logits that are returned at present."""
        return self._network.precision

    @property
    def divisor(self) -> Size3:
        """Edges of windows are multiples of these."""
        return self._network.divisor

    def __call__(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits ``(B, L, i, j, k)`` of windows ``(B, C, i, j, k)``.

        Raises:
            TrialOverError: When all trials are over.
        """
        logits = self._network(batch)
        if not on_trial(self._network):
            raise TrialOverError
        return logits

    def end_of_case(self) -> None:
        """Decide on what a small case has told, so that the next is not computed otherwise.

        Raises:
            TrialOverError: If a trial has ended, so that this case is to be begun anew.
        """
        for trial in self._undecided:
            trial.settle()
        if any(trial.is_over for trial in self._undecided):
            raise TrialOverError


def on_trial(network: WindowNetwork) -> bool:
    """Whether the arithmetic of a network, or of one of several, is not decided yet."""
    return bool(_trials(network))


def _trials(network: WindowNetwork) -> list[Trial]:
    """Those of a network, or of several, that are not over."""
    members = getattr(network, "networks", (network,))
    return [member for member in members if isinstance(member, Trial) and not member.is_over]
