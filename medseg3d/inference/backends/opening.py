"""Which backend and which arithmetic to take, and what to do when one fails."""

import logging
from importlib.util import find_spec
from pathlib import Path

from medseg3d.bundle import Bundle
from medseg3d.device import Device, Precision, resolve_precision
from medseg3d.errors import ConfigError
from medseg3d.inference.backends.cache import cache_folder
from medseg3d.inference.backends.registered import BACKENDS, Backend, UnfitBackendError
from medseg3d.inference.backends.source import Source
from medseg3d.inference.evidence import Memory, Trial, is_doubtful, sound_precision
from medseg3d.inference.network import WindowNetwork
from medseg3d.machine import num_processors

log = logging.getLogger("medseg3d")

TRIALS = "trials.json"
SURE = "eager"
"""The backend that computes every network everywhere."""

BESIDE_GPU = 16
"""Bytes per voxel of a window and channel that are allowed for in the memory beside a GPU."""


def open_network(
    path: Path,
    bundle: Bundle,
    *,
    backend: str = "auto",
    precision: str = "auto",
    device: Device,
    threads: int | None = None,
) -> WindowNetwork:
    """The network of a bundle, ready to compute.

    Args:
        path: The bundle.
        bundle: Its description.
        backend: Registered name; ``auto`` takes the fastest that is installed and valid here.
        precision: ``bf16``, ``fp16`` or ``fp32``; ``auto`` takes the fastest one that leaves the
            labels as they are: by the bundle's own evidence, else by comparing the first windows.
        device: Where to compute.
        threads: Processors to use; default all that this process is allowed.

    Raises:
        ConfigError: If the backend is unknown, not installed or computes neither on the device
            nor in the arithmetic.
        ModelError: If the bundle is damaged.
    """
    threads = threads or num_processors()
    wanted = resolve_precision(precision, device)
    if precision == "auto":
        wanted = sound_precision(bundle, wanted)
    if backend != "auto":
        _refuse_unusable(backend, device)
        if wanted not in BACKENDS.facts(backend)["precisions"]:
            if precision != "auto":
                raise ConfigError(
                    f"--backend {backend} does not compute in {precision}; use --precision fp32"
                )
            wanted = "fp32"
    doubtful = precision == "auto" and is_doubtful(bundle, wanted)
    source = Source(path, bundle)
    candidates = _ranked(wanted, device) if backend == "auto" else [backend, SURE]
    for name, after in zip(candidates, [*candidates[1:], SURE], strict=True):
        try:
            ready: Backend = BACKENDS[name].open(
                source,
                precision="fp32" if doubtful else wanted,
                device=device,
                threads=threads,
            )
            return _tried(ready, wanted, source) if doubtful else ready
        except (UnfitBackendError, ImportError) as error:
            if name == SURE:
                raise
            log.warning("backend %s cannot be used here (%s), so %s is", name, error, after)
    raise AssertionError("the sure one opens or raises")


def _tried(exact: Backend, precision: Precision, source: Source) -> WindowNetwork:
    """What an earlier trial chose, else a new trial."""
    memory = Memory(cache_folder(source.path) / TRIALS)
    what = f"{source.key[:16]} {exact.backend} {precision}"
    passed = memory.recall(what)
    if passed is None:
        return Trial(exact, exact.twin(precision), lambda passed: memory.keep(what, passed))
    return exact.twin(precision) if passed else exact


def window_bytes(backend: str, precision: str, device: Device, models: int = 1) -> int:
    """Memory per voxel of a window and channel of the finest stage, of what is likely opened.

    Args:
        backend: Registered name or ``auto``.
        precision: As it is asked for; ``auto`` may also come to fp32.
        device: Where it computes; a GPU has memory of its own.
        models: How many are averaged.

    Raises:
        ConfigError: If the backend is unknown.
    """
    wanted = resolve_precision("auto", device) if precision == "auto" else precision
    likely = _ranked(wanted, device)[0] if backend == "auto" else backend
    facts = BACKENDS.facts(likely)
    bytes_of: dict[str, int] = facts["window_bytes"]
    if device.type != "cpu":
        return BESIDE_GPU
    possible = {wanted, "fp32"} if precision == "auto" else {wanted}
    of_one = max(bytes_of.get(name, bytes_of["fp32"]) for name in possible)
    return of_one + (models - 1) * int(facts.get("kept_bytes", 0))


def missing(name: str) -> list[str]:
    """Modules that a backend needs and that are not installed."""
    return [module for module in BACKENDS.facts(name)["needs"] if find_spec(module) is None]


def _ranked(precision: str, device: Device) -> list[str]:
    """Backends that can be used, the fastest first; the sure one is always among them."""
    speeds = {
        name: BACKENDS.facts(name)["speed"].get(precision, 0.0)
        for name in BACKENDS
        if _is_automatic(name, device)
    }
    faster = [name for name, speed in speeds.items() if speed > speeds[SURE]]
    return [*sorted(faster, key=lambda name: -speeds[name]), SURE]


def _is_automatic(name: str, device: Device) -> bool:
    facts = BACKENDS.facts(name)
    return bool(facts["auto"] and device.type in facts["devices"] and not missing(name))


def _refuse_unusable(name: str, device: Device) -> None:
    facts = BACKENDS.facts(name)
    if absent := missing(name):
        raise ConfigError(
            f"--backend {name} needs {' and '.join(absent)}, which this Python does not have; "
            f'install with pip install "medseg3d[{facts["extra"]}]", or use --backend auto'
        )
    if device.type not in facts["devices"]:
        raise ConfigError(
            f"--backend {name} does not compute on {device.type}; give --device "
            f"{facts['devices'][0]}, or use --backend auto"
        )
