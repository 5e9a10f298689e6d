"""Peak memory of a training step of the partially reversible U-Net and of its plain twin.

Each is measured in a process of its own, on the CPU, as the highest resident memory beyond what
the process held before the step.
"""

import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, resource, sys
import torch
from medseg3d.networks import build_network

reversible, depth, edge = json.loads(sys.argv[1])
torch.manual_seed(0)
torch.set_num_threads(1)
options = {"widths": (16, 32, 64), "strides": (2, 2), "depth": depth, "reversible": reversible}
network = build_network("partially_reversible_unet", 1, 3, options=options).train()
image = torch.randn(1, 1, edge, edge, edge)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
network(image).square().mean().backward()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) / 1024)
"""


def peak_mib(*, reversible: bool, depth: int, edge: int) -> float:
    arguments = json.dumps([reversible, depth, edge])
    done = subprocess.run(
        [sys.executable, "-c", CODE, arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # freed memory is given back
    )
    return float(done.stdout)


def test_the_reversible_network_takes_less_and_grows_less_with_its_depth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours, plain = (
        {depth: peak_mib(reversible=reversible, depth=depth, edge=64) for depth in (1, 2, 4)}
        for reversible in (True, False)
    )
    with capsys.disabled():
        for depth in ours:
            told = f"reversible {ours[depth]:.0f} MiB, plain {plain[depth]:.0f} MiB"
            sys.stdout.write(f"\ndepth {depth}: {told}")
    assert all(ours[depth] < plain[depth] for depth in ours)
    assert ours[4] - ours[1] < 0.1 * (plain[4] - plain[1])
