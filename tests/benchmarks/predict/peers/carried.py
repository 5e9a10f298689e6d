"""Our weights in the network that nnU-Net builds, without importing medseg3d.

::

    python carried.py BUNDLE PATCH.npz     # compares with the logits in the file

The file has ``image`` ``(1, 1, I, J, K)`` and ``logits`` ``(1, L, I, J, K)`` of our network.
"""

import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from safetensors.torch import load
from torch import Tensor, nn

TOLERANCE = 1e-4


def read(bundle: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and weights of a bundle."""
    with zipfile.ZipFile(bundle) as archive:
        description = json.loads(archive.read("model.json"))
        return description, load(archive.read("weights.safetensors"))


def architecture(description: dict[str, Any], *, reverse: bool = False) -> dict[str, Any]:
    """Arguments of ``PlainConvUNet``; ``reverse`` turns the axes from x, y, z to z, y, x."""
    plan = description["plan"]
    turn = -1 if reverse else 1
    stages = len(plan["kernels"])
    return {
        "n_stages": stages,
        "features_per_stage": [
            min(plan["width"] * 2**stage, plan["max_width"]) for stage in range(stages)
        ],
        "kernel_sizes": [kernel[::turn] for kernel in plan["kernels"]],
        "strides": [[1, 1, 1], *(stride[::turn] for stride in plan["strides"])],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin_kwargs": {"inplace": True},
    }


def network(bundle: Path, *, reverse: bool = False) -> nn.Module:
    """The network with the bundle's weights, ready to predict."""
    description, weights = read(bundle)
    built: nn.Module = PlainConvUNet(
        input_channels=description["channels"],
        num_classes=len(description["plan"]["labels"]),
        conv_op=nn.Conv3d,
        norm_op=nn.InstanceNorm3d,
        nonlin=nn.LeakyReLU,
        deep_supervision=False,
        **architecture(description, reverse=reverse),
    )
    theirs = dict(built.named_parameters())
    unfilled = {name for name in theirs if "seg_layers" not in name} | {
        f"decoder.seg_layers.{len(description['plan']['kernels']) - 2}.{part}"
        for part in ("weight", "bias")
    }
    for name, weight in weights.items():
        carried = their_name(name, stages=len(description["plan"]["kernels"]))
        if reverse and weight.ndim == 5:
            weight = weight.permute(0, 1, 4, 3, 2)
        with torch.no_grad():
            theirs[carried].copy_(weight)
        unfilled.discard(carried)
    if unfilled:
        raise SystemExit(f"no weights of ours for {sorted(unfilled)[:3]}")
    return built.eval()


def their_name(name: str, *, stages: int) -> str:
    """A parameter of our U-Net in nnU-Net's words.

    Examples:
        >>> their_name("encoder.0.1.conv.weight", stages=5)
        'encoder.stages.0.0.convs.1.conv.weight'
        >>> their_name("heads.0.bias", stages=5)
        'decoder.seg_layers.3.bias'
    """
    if found := re.fullmatch(r"heads\.(\d+)\.(\w+)", name):
        return f"decoder.seg_layers.{stages - 2 - int(found[1])}.{found[2]}"
    if name.startswith("ups."):
        return name.replace("ups.", "decoder.transpconvs.", 1)
    part, stage, place, rest = name.split(".", 3)
    inner = f"{stage}.0" if part == "encoder" else stage
    return f"{part}.stages.{inner}.convs.{place}.{rest}"


def main() -> None:
    """Compare logits; exit code 1 if they differ."""
    bundle, patch = map(Path, sys.argv[1:])
    stored = np.load(patch)
    image, expected = torch.from_numpy(stored["image"]), torch.from_numpy(stored["logits"])
    with torch.inference_mode():
        difference = (network(bundle)(image) - expected).abs().max().item()
        turned = network(bundle, reverse=True)(image.permute(0, 1, 4, 3, 2))
        reversed_difference = (turned.permute(0, 1, 4, 3, 2) - expected).abs().max().item()
    sys.stdout.write(f"{max(difference, reversed_difference):.2e}\n")
    sys.exit(max(difference, reversed_difference) > TOLERANCE)


if __name__ == "__main__":
    main()
