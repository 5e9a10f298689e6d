"""``fit`` and ``predict`` as a user calls them, with what they report."""

import json
import os
import resource
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.predict.compare import MEDSEG3D
from tests.benchmarks.predict.measure import run


@dataclass(frozen=True)
class Trial:
    """A model and what it labels.

    Attributes:
        bundle: The model.
        images: All channels of all cases.
        truth: Label map of each case by its id, as far as there is one.
    """

    bundle: Path
    images: list[Path]
    truth: dict[str, Path]


@dataclass(frozen=True)
class Predicted:
    """One ``predict`` command.

    Attributes:
        folder: Its label maps, ``<case id>.nii.gz``.
        seconds: Wall time of the whole command.
        processor_seconds: Time of the processor, of all threads together: on a busy machine
            this says more.
        cases: What ``predictions.json`` says of each case, by its id.
    """

    folder: Path
    seconds: float
    processor_seconds: float
    cases: dict[str, dict[str, Any]]


def fitted(
    bundle: Path, data: Path, *, minutes: float, folder: Path, options: Sequence[str] = ()
) -> Path:
    """The bundle of a run that is made if it is not there.

    Args:
        bundle: ``model.medseg3d`` in the run folder.
        data: Cases to learn from.
        minutes: How long to train.
        folder: Of the benchmark: logs and preprocessed cases.
        options: More of ``fit``.
    """
    if not bundle.is_file():
        shutil.rmtree(bundle.parent, ignore_errors=True)
        command: list[str | Path] = [MEDSEG3D, "fit", data, "-o", bundle.parent, "--device", "cpu"]
        command += ["--max-minutes", str(minutes), "--set", f"cache={folder / 'cache'}", *options]
        found = run(command, log=folder / "logs" / f"fit_{bundle.parent.name}.log")
        if found.code:
            raise SystemExit(f"fit failed:\n{found.error}")
    return bundle


def minutes_of(bundle: Path) -> float:
    """How long a bundle was trained."""
    from medseg3d.bundle import read_bundle

    return float(read_bundle(bundle).training["minutes"])


def predicted(
    images: Sequence[Path],
    bundle: Path,
    out: Path,
    *,
    log: Path,
    threads: int | None = None,
    options: Sequence[str] = (),
) -> Predicted:
    """Label images in a fresh process, in a folder that is emptied first.

    What computes is the same in all runs of a bundle: without evidence for bf16 in it, each
    command would try that on its own first windows, so it gets fp32.
    """
    from medseg3d.bundle import read_bundle

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    command: list[str | Path] = [MEDSEG3D, "predict", *images, "-m", bundle, "-o", out]
    command += ["--device", "cpu", *options]
    command += [] if read_bundle(bundle).dice_changes else ["--precision", "fp32"]
    command += ["--threads", str(threads)] if threads else []
    before = _processor_seconds()
    found = run(command, log=log)
    if found.code:
        raise SystemExit(f"predict failed:\n{found.error}")
    facts = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    cases = {each["case"]: each for each in facts["cases"].values()}
    return Predicted(out, found.seconds, _processor_seconds() - before, cases)


def few_threads(threads: int | None) -> None:
    """Let training, too, take no more processors than that."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
