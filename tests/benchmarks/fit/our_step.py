"""Seconds of our training step, in the form of ``peers/step_of_peer.py``.

::

    python -m tests.benchmarks.fit.our_step fp32|bf16 CHANNELS LABELS BATCH STEPS I J K WIDTH ...
"""

import json
import sys
import time

import torch

from medseg3d.device import autocast, find_device
from medseg3d.losses import LOSSES
from medseg3d.losses.deep_supervision import DeepSupervision
from medseg3d.machine import freed_memory_kept
from medseg3d.networks import build_network


def main() -> None:
    """Measure and print."""
    precision = sys.argv[1]
    channels, labels, batch, steps, *size = map(int, sys.argv[2:9])
    widths = [int(width) for width in sys.argv[9:]]
    torch.manual_seed(0)
    options = {
        "width": widths[0],
        "max_width": max(widths),
        "strides": [2] * (len(widths) - 1),
    }
    network = build_network("unet3d", channels, labels, options=options)
    loss = DeepSupervision(LOSSES.build("dice_ce"))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)
    image = torch.randn(batch, channels, *size)
    target = torch.randint(labels, (batch, 1, *size))
    device = find_device("cpu")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            cost = loss(network(image), target)
        cost.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()

    with freed_memory_kept():  # as in ``fit``
        step()
        begun = time.perf_counter()
        for _ in range(steps):
            step()
        seconds = (time.perf_counter() - begun) / steps
    sys.stdout.write(json.dumps({"seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
