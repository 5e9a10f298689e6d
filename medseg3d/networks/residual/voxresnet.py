"""Voxel-wise residual network whose logits of four resolutions are added.

Reference:
    Chen et al., "VoxResNet: deep voxelwise residual networks for brain segmentation from 3D MR
    images", NeuroImage 170, 2018. arXiv:1608.05895

The weight of the side losses falls during training, by how much is not printed; here from 1 to
0.01, by the same factor in equal parts of the budget; ``level_decay`` has no say in it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvNormAct,
    NormActConv,
    Size,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
    per_stage,
)
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology

LAST_WEIGHT = 0.01
"""Weight of the side losses at the end of the training, where it was 1 at the beginning."""


@NETWORKS.register(
    "voxresnet",
    title="VoxResNet",
    year=2018,
    paper="1608.05895",
    dims=(3,),
    outputs="logits of each scale",
    parameters=1_327_296,
)
class VoxResNet(nn.Module):
    """Two residual blocks after each strided convolution, and no decoder but upsampled logits.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest resolution; all others have twice as many.
        strides: Downsampling entering each resolution but the first.
        first_kernel: Kernel of the second convolution and of the first one of each block.
        deep_supervision: While training, return the sum and the logits of each resolution.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.

    Shape:
        - input: ``(B, C, I, J, K)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, I, J, K)``; while training with deep supervision a list of them

    Raises:
        ConfigError: If there is no stride, one does not fit, or a kernel is even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2),
        first_kernel: Size = (1, 3, 3),
        deep_supervision: bool = True,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=3)
        stages = Stages.of("voxresnet", width, 2 * width, strides, 3)
        self.divisor = stages.divisor
        self.deep_supervision = deep_supervision
        self.side_weight = 1.0
        wide = 2 * width
        self.stem = ConvNormAct(in_channels, width, style=style)
        (first,) = per_stage([first_kernel], 1, 3, odd=True)
        padding = [edge // 2 for edge in first]
        self.second = style.operators.conv(width, width, first, padding=padding)
        self.stages = nn.ModuleList(
            nn.Sequential(
                NormActConv(
                    width if place == 0 else wide, wide, stride=step, bias=True, style=style
                ),
                VoxRes(wide, first_kernel, style=style),
                VoxRes(wide, first_kernel, style=style),
            )
            for place, step in enumerate(stages.steps)
        )
        up = style.operators.conv_transpose
        self.sides = nn.ModuleList(
            [nn.Sequential(up(width, out_channels, 3, 1, 1), _point(out_channels, style))]
        )
        for stage in range(1, len(stages.widths)):
            scale = stages.scale(stage)
            self.sides.append(
                nn.Sequential(up(wide, out_channels, scale, scale), _point(out_channels, style))
            )
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 1 -> 4 channels."""
        return cls(1, 4, norm="batch")

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """The first three strides of the plan, its width, and its kernel where slices are thick."""
        flat = min(topology.kernels[0]) == 1
        return {
            "width": topology.width,
            "strides": topology.strides[:3],
            "first_kernel": topology.kernels[0] if flat else 3,
        }

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of the image; see the class for the list while training."""
        size = x.shape[2:]
        x = self.second(self.stem(pad_to_multiple(x, self.divisor)))
        logits = [self.sides[0](x)]
        for stage, side in zip(self.stages, self.sides[1:], strict=True):
            x = stage(x)
            logits.append(side(x))
        total = torch.stack(logits).sum(0)
        if self.training and self.deep_supervision:
            return [crop(each, size) for each in (total, *logits)]
        return crop(total, size)

    def set_progress(self, used: float) -> None:
        """Weigh the side losses by the share of the training that is over."""
        self.side_weight = LAST_WEIGHT ** min(used, 1.0)

    def objective(
        self, loss: Callable[[Tensor, Tensor], Tensor], image: Tensor, labels: Tensor
    ) -> Tensor:
        """The loss of the sum plus the weighted losses of the logits of each resolution.

        Args:
            loss: ``loss(logits, labels)``.
            image: ``(B, C, I, J, K)``.
            labels: ``(B, 1, I, J, K)`` integers.
        """
        found = self(image)
        if isinstance(found, Tensor):
            return loss(found, labels)
        total, *sides = found
        of_sides = torch.stack([loss(side, labels) for side in sides]).sum()
        return loss(total, labels) + self.side_weight * of_sides


class VoxRes(nn.Module):
    """Two pre-activated convolutions added to what they read.

    Shape:
        - input and output: ``(B, channels, I, J, K)``
    """

    def __init__(self, channels: int, first_kernel: Size, *, style: Style) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            NormActConv(channels, channels, kernel=first_kernel, bias=True, style=style),
            NormActConv(channels, channels, bias=True, style=style),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        total: Tensor = x + self.convs(x)
        return total


def _point(channels: int, style: Style) -> nn.Module:
    return style.operators.conv(channels, channels, 1)
