"""Seconds and peak memory of a training step: the same network in the peer's own arithmetic.

::

    python step_of_peer.py nnunet|monai CHANNELS LABELS BATCH STEPS I J K WIDTH [WIDTH ...]

Prints one line of JSON. nnU-Net's trainer computes in float32 on a CPU, and so does the loop of
MONAI's tutorials. As medseg3d's, both are supervised at all but the two coarsest stages; the
third coarsest output that nnU-Net's network makes has no weight in its trainer either.
"""

import json
import sys
import time
from typing import Any

import torch
from torch import Tensor


def of_nnunet(channels: int, labels: int, widths: list[int]) -> tuple[torch.nn.Module, Any]:
    """Its network and its loss as its trainer builds them."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    stages = len(widths)
    network = PlainConvUNet(
        channels,
        stages,
        widths,
        torch.nn.Conv3d,
        3,
        [1] + [2] * (stages - 1),
        2,
        labels,
        2,
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    single = DC_and_CE_loss(
        {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    weights = [0.5**depth for depth in range(stages - 2)] + [0.0]
    return network, DeepSupervisionWrapper(single, [each / sum(weights) for each in weights])


def of_monai(channels: int, labels: int, widths: list[int]) -> tuple[torch.nn.Module, Any]:
    """DynUNet and the loss of MONAI's tutorials."""
    from monai.losses import DiceCELoss
    from monai.networks.nets import DynUNet

    strides = [1] + [2] * (len(widths) - 1)
    network = DynUNet(
        3,
        channels,
        labels,
        kernel_size=[3] * len(widths),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=widths,
        deep_supervision=True,
        deep_supr_num=len(widths) - 3,
    )
    single = DiceCELoss(to_onehot_y=True, softmax=True)

    def loss(outputs: list[Tensor], target: Tensor) -> Tensor:
        costs = [0.5**depth * single(output, target) for depth, output in enumerate(outputs)]
        return torch.stack(costs).sum()

    return network, loss


def main() -> None:
    """Measure and print."""
    channels, labels, batch, steps, *size = map(int, sys.argv[2:9])
    widths = [int(width) for width in sys.argv[9:]]
    torch.manual_seed(0)
    build = {"nnunet": of_nnunet, "monai": of_monai}[sys.argv[1]]
    network, loss = build(channels, labels, widths)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)
    image = torch.randn(batch, channels, *size)
    target = torch.randint(labels, (batch, 1, *size))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs = network(image)
        if isinstance(outputs, Tensor):
            outputs = list(torch.unbind(outputs, dim=1))
        if sys.argv[1] == "monai":
            cost = loss(outputs, target)
        else:
            scales = [
                [have // out for have, out in zip(size, o.shape[2:], strict=True)] for o in outputs
            ]
            targets = [target[:, :, :: s[0], :: s[1], :: s[2]] for s in scales]
            cost = loss(outputs, targets)
        cost.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()

    step()
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    seconds = (time.perf_counter() - begun) / steps
    sys.stdout.write(json.dumps({"seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
