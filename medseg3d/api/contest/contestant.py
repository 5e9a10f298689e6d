"""One network of a bake-off: trained, then measured, each in a process of its own.

Peaks of memory are so that network's, and a network that takes all memory ends alone. What a
process found out lies in the run folder, where the bake-off reads it.
"""

import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medseg3d.api.contest.own_process import end_with_parent
from medseg3d.api.fitting.planning import planned, refuse_what_cannot_be_built
from medseg3d.api.fitting.run import fit, use_allowed_processors
from medseg3d.api.fitting.verdict import evenly
from medseg3d.bundle import FILE_NAME, load_network, read_bundle
from medseg3d.config import FitConfig, validated
from medseg3d.data.canonical import canonical
from medseg3d.data.plan import Plan
from medseg3d.device import resolve_device
from medseg3d.inference.predictor import Predictor
from medseg3d.io import read_image
from medseg3d.io.atomic import write_text
from medseg3d.machine import peak_memory
from medseg3d.process import FAILED, TERMINATED, forgive_characters, handle_signals, sentence
from medseg3d.progress import LOGGER, StderrHandler, track
from medseg3d.runs import interrupted_run, stored_options
from medseg3d.training.train import GOES_ON

log = logging.getLogger("medseg3d")

FACTS = "bakeoff.json"
FAULT = "fault.txt"
"""Why the network failed, in one sentence."""

MEASURED_CASES = 5


@dataclass(frozen=True)
class Facts:
    """What is measured of a network; 0 until then.

    Attributes:
        training_memory: Most bytes that training held.
        prediction_memory: Most bytes that labeling held.
        parameters: Numbers that it learned.
        gflop_per_patch: Operations of one forward pass of one patch, in 1e9.
        seconds_per_case: Median time to read and label a held-out case.
    """

    training_memory: int = 0
    prediction_memory: int = 0
    parameters: int = 0
    gflop_per_patch: float = 0.0
    seconds_per_case: float = 0.0

    @classmethod
    def of(cls, folder: Path) -> "Facts":
        """Those that a run folder holds."""
        path = folder / FACTS
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls()

    def write(self, folder: Path) -> None:
        """Keep them in the run folder."""
        write_text(folder / FACTS, json.dumps(asdict(self), indent=1))


def train(config: FitConfig, folder: Path) -> None:
    """Go on with the run in the folder, and keep the peak of memory.

    Args:
        config: Where the data are and what to compute with; all else is stored.
        folder: Run folder, which holds at least its options.
    """
    try:
        refuse_what_cannot_be_built(interrupted_run(config)[1])
        fit(config)
    finally:
        before = Facts.of(folder)
        most = max(before.training_memory, _peak(resolve_device(config.device)))
        replace(before, training_memory=most).write(folder)


def measure(config: FitConfig, folder: Path) -> None:
    """Label some held-out cases, and count what a forward pass takes.

    Args:
        config: Where the data are and what to compute with.
        folder: Run folder of a network that is trained.
    """
    use_allowed_processors()
    model, device = folder / FILE_NAME, resolve_device(config.device)
    bundle, stored = read_bundle(model), stored_options(folder)
    dataset, _, parts = planned(stored.model_copy(update={"data": config.data}), folder)
    held_out = [case for case in dataset.cases if case.id in parts.validation]
    cases = evenly(held_out, MEASURED_CASES)
    predictor = Predictor.open(
        model, device=device, precision=bundle.precision, overlap=stored.overlap
    )
    predictor.segment(canonical(read_image(cases[0].images)))  # also pays for what is set up once
    seconds = []
    for case in track(cases, "Measuring", unit="case"):
        begun = time.perf_counter()
        predictor.segment(canonical(read_image(case.images)))
        seconds.append(time.perf_counter() - begun)
    memory = _peak(device)
    network = load_network(model)
    replace(
        Facts.of(folder),
        prediction_memory=memory,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        gflop_per_patch=gflop_per_patch(network, bundle.plan),
        seconds_per_case=statistics.median(seconds),
    ).write(folder)


def gflop_per_patch(network: nn.Module, plan: Plan) -> float:
    """Operations of one forward pass of one patch, in 1e9.

    Convolutions and matrix products are counted, a multiplication with its addition as two;
    norms, activations and interpolation are not.
    """
    patch = torch.zeros(1, len(plan.channels), *plan.patch_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(patch)
    return float(counter.get_total_flops() / 1e9)


def _peak(device: torch.device) -> int:
    """Most bytes held so far, on a GPU those of the GPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return peak_memory()


STEPS: dict[str, Callable[[FitConfig, Path], None]] = {"train": train, "measure": measure}


def main(arguments: Sequence[str]) -> None:
    """Do one step in this process.

    Args:
        arguments: Name of the step, the options as JSON, and the level of the log.
    """
    handle_signals()
    forgive_characters()
    end_with_parent()
    step, options, level = arguments
    LOGGER.addHandler(StderrHandler())
    LOGGER.setLevel(int(level))
    config = validated(FitConfig, json.loads(options))
    assert config.out is not None
    try:
        STEPS[step](config, config.out)
    except KeyboardInterrupt:
        sys.exit(TERMINATED)
    except Exception as error:
        log.debug("%s", step, exc_info=True)
        write_text(config.out / FAULT, sentence(error).removesuffix(GOES_ON))
        sys.exit(FAILED)
