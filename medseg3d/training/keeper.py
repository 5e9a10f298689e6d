"""Bringing a checkpoint back into a trainer, and writing the next one."""

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor, nn

from medseg3d.errors import RunError
from medseg3d.training.averaging import Averaging, tensors_of
from medseg3d.training.checkpoint import LAST, Checkpoint, write_checkpoint
from medseg3d.training.correction import Correction
from medseg3d.training.course import Course

log = logging.getLogger("medseg3d")

WRITING_SHARE = 0.05
"""Checkpoints take at most about this part of the time, however often they are asked for."""


class Keeper:
    """Weights, their average and the optimizer's state, between memory and disk.

    Args:
        folder: For checkpoints.
        course: Stored with them.
        found: The checkpoint to go on from, if any.
        pause: Shortest time between two checkpoints, in seconds.

    Attributes:
        averaging: Made by :meth:`begin`, when the network is on its device.
    """

    def __init__(
        self, folder: Path, course: Course, found: Checkpoint | None, *, pause: float
    ) -> None:
        self.averaging: Averaging | None = None
        self._correction: Correction | None = None
        self._folder = folder
        self._course = course
        self._found = found
        self._last_is_damaged = found is not None and not found.is_last
        self._pause = pause
        self._written_at = time.monotonic()
        self._written_step = course.step if found else -1
        self._cost = 0.0
        self._buffers: dict[str, Tensor] = {}

    def begin(
        self,
        trainer: Trainer,
        network: nn.Module,
        averaging: Averaging,
        correction: Correction | None = None,
    ) -> None:
        """Put the checkpoint's state where it belongs.

        Raises:
            RunError: If it is of another network.
        """
        if self._found is not None:
            tensors, facts = self._found.tensors, self._found.facts
            _restore("network", tensors_of(network), tensors)
            _restore("average", averaging.tensors, tensors)
            averaging.updates = facts["updates"]
            if correction is not None:
                _restore("correction", correction.tensors, tensors)
                correction.cycles, correction.counts = facts["cycles"], facts["corrected"]
                correction.agreement = facts["agreement"]
            if facts["scaler"]:  # that of a run without a loss scaler is empty
                trainer.precision_plugin.load_state_dict(facts["scaler"])
            _restore_optimizer(trainer, tensors)
            self._found = None
        self.averaging, self._correction = averaging, correction

    def note_buffers(self, network: nn.Module) -> None:
        """Remember what a step changes before its end, in case it is cut off."""
        self._buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}

    def forget_buffers(self) -> None:
        """The step has ended."""
        self._buffers = {}

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        pause = max(self._pause, self._cost / WRITING_SHARE)
        return time.monotonic() - self._written_at >= pause

    def save(self, trainer: Trainer, network: nn.Module, *, anew: bool = True) -> None:
        """Write a checkpoint; without ``anew`` only if the last one is of an earlier step."""
        if self.averaging is None or not (anew or self._written_step < self._course.step):
            return  # nothing has begun, or nothing has happened
        begun = time.monotonic()
        named = {f"network.{name}": tensor for name, tensor in tensors_of(network).items()}
        named |= {f"network.{name}": tensor for name, tensor in self._buffers.items()}
        named |= {f"average.{name}": tensor for name, tensor in self.averaging.tensors.items()}
        for index, state in _optimizer_state(trainer).items():
            named |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        facts = self._course.facts() | {
            "updates": self.averaging.updates,
            "scaler": trainer.precision_plugin.state_dict(),
        }
        if self._correction is not None:
            mean = self._correction.tensors
            named |= {f"correction.{name}": tensor for name, tensor in mean.items()}
            facts["cycles"] = self._correction.cycles
            facts["corrected"] = self._correction.counts
            facts["agreement"] = self._correction.agreement
        if self._last_is_damaged:  # it must not take the place of the sound one before it
            with suppress(OSError):  # writing tells what is wrong with the disk
                (self._folder / LAST).unlink(missing_ok=True)
        write_checkpoint(self._folder, named, facts)
        self._last_is_damaged = False
        self._written_at = time.monotonic()
        self._written_step = self._course.step
        self._cost = self._written_at - begun


def _restore(part: str, own: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    given = {
        name.removeprefix(f"{part}."): tensor
        for name, tensor in stored.items()
        if name.startswith(f"{part}.")
    }
    differing = sorted(
        name
        for name in own.keys() | given.keys()
        if name not in own or name not in given or own[name].shape != given[name].shape
    )
    if differing:
        raise RunError(
            f"the checkpoint is of another network: {len(differing)} tensors differ, such as "
            f"{', '.join(differing[:3])}; resume with the version that began the run"
        )
    for name, tensor in given.items():
        own[name].copy_(tensor)


def _optimizer_state(trainer: Trainer) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = trainer.optimizers[0].state_dict()["state"]
    return state


def _restore_optimizer(trainer: Trainer, stored: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in stored.items():
        part, _, place = name.partition(".")
        if part == "optimizer":
            index, _, key = place.partition(".")
            state.setdefault(int(index), {})[key] = tensor
    optimizer = trainer.optimizers[0]
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
