"""Convolution rate that each backend reaches, as a share of the processor's measured peak.

The peak is that of multiply-adds in registers (``peak.c``, compiled here); where there is no C
compiler, that of a large torch matrix product, which is lower. Backends take turns; the fastest
of several windows counts, since everything else is other load.

::

    python -m tests.benchmarks.predict.throughput --bundle build/bench-predict/ct3.medseg3d
"""

import argparse
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg3d.bundle import Bundle, read_bundle
from medseg3d.errors import MedSeg3DError
from medseg3d.machine import num_processors
from medseg3d.networks import build_network
from tests.benchmarks.predict.results import FOLDER, Results, say, table

WINDOWS = 6
KINDS = (
    ("eager", "fp32"),
    ("onnx", "fp32"),
    ("compile", "fp32"),
    ("openvino", "fp32"),
    ("eager", "bf16"),
    ("compile", "bf16"),
    ("openvino", "bf16"),
)


def operations(bundle: Bundle) -> float:
    """Floating-point operations of all convolutions for one window, two for a multiply-add."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        # a convolution uses its kernel once per output voxel, a transposed one per input voxel
        places = inputs[0] if isinstance(module, nn.ConvTranspose3d) else output
        total += 2 * weight.numel() * places[0, 0].numel()

    with torch.device("meta"):
        network = build_network(
            bundle.network, bundle.channels, bundle.plan.num_labels, options=bundle.options
        ).eval()
        for module in network.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                module.register_forward_hook(count)
        network(torch.empty(1, bundle.channels, *bundle.plan.patch_size))
    return float(total)


def peak(folder: Path, threads: int) -> tuple[dict[str, float], str]:
    """Largest GFLOP/s in each arithmetic, and how it was measured."""
    source, program = Path(__file__).with_name("peak.c"), folder / "peak"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is not None:
        flags = ["-O3", "-march=native", "-fopenmp", "-ffp-contract=fast"]
        built = subprocess.run([compiler, *flags, source, "-o", program], capture_output=True)
        if built.returncode == 0:
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            done = subprocess.run([program], capture_output=True, text=True, env=environment)
            single, half = map(float, done.stdout.split())
            return {"fp32": single, "bf16": half}, "multiply-adds in registers"
    return {"fp32": _product(torch.float32), "bf16": _product(torch.bfloat16)}, "torch matmul"


def _product(kind: torch.dtype, size: int = 4096) -> float:
    left, right = torch.ones(2, size, size, dtype=kind)
    best = min(_seconds(lambda: left @ right) for _ in range(5))
    return 2 * size**3 / best / 1e9


def _seconds(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    from medseg3d.inference.backends import open_network

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--backends", nargs="+", default=list(dict.fromkeys(k[0] for k in KINDS)))
    given = parser.parse_args()
    path = given.bundle or given.folder / "ct3.medseg3d"
    bundle = read_bundle(path)
    threads = num_processors()
    torch.set_num_threads(threads)
    highest, how = peak(given.folder, threads)
    say(f"peak, {how}, {threads} threads: {highest} GFLOP/s")
    networks = {}
    for kind in KINDS:
        if kind[0] not in given.backends:
            continue
        backend, precision = kind
        try:
            networks[kind] = open_network(
                path,
                bundle,
                backend=backend,
                precision=precision,
                device=torch.device("cpu"),
                threads=threads,
            )
        except MedSeg3DError as error:
            say(f"{backend} {precision}: {error}")
    size = (1, bundle.channels, *bundle.plan.patch_size)
    window = np.random.default_rng(0).normal(size=size).astype(np.float32)
    times: dict[tuple[str, str], list[float]] = {kind: [] for kind in networks}
    for number in range(WINDOWS + 1):
        for kind, network in networks.items():
            seconds = _seconds(lambda network=network: network(window))
            if number:  # the first compiles
                times[kind].append(seconds)
    work = operations(bundle)
    results = Results(given.folder / "results.json")
    for kind in times:
        results.forget("throughput", model=path.name, backend=kind[0], precision=kind[1])
        rate = work / min(times[kind]) / 1e9
        results.add(
            "throughput",
            model=path.name,
            backend=kind[0],
            precision=kind[1],
            milliseconds=1000 * min(times[kind]),
            gflops=rate,
            peak=highest[kind[1]],
            how=how,
        )
    say(report(results))


def report(results: Results) -> str:
    """Markdown of all backends that were measured."""
    rows = [
        [
            each["model"],
            each["backend"],
            each["precision"],
            f"{each['milliseconds']:.0f}",
            f"{each['gflops']:.0f}",
            f"{each['peak']:.0f}",
            f"{each['gflops'] / each['peak']:.0%}" if each["peak"] else "-",
        ]
        for each in results.of("throughput")
    ]
    columns = ["model", "backend", "precision", "ms per window", "GFLOP/s", "peak", "share"]
    return table(columns, rows)


if __name__ == "__main__":
    main()
