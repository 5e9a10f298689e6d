"""U-Net whose decoder stages each read the features of all scales.

Reference:
    Huang et al., "UNet 3+: a full-scale connected UNet for medical image segmentation", ICASSP
    2020. arXiv:2004.08790

The paper upsamples the supervised logits; here each is compared with labels of its own size.

The classification-guided module tells which labels an image shows. The paper multiplies the
logits by what it decides, through which no gradient passes; here it learns by a loss of its own,
and what it decides counts in evaluation only.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvNormAct,
    ConvStack,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
)
from medseg3d.networks.blocks.classes import num_classes, presence_loss
from medseg3d.networks.blocks.stages import Stages, linear_upsampling, listed
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology

MARGIN = 10.0
"""Logits that a label which is not shown lies below the background, a probability of 0.00005."""


@NETWORKS.register(
    "unet3plus",
    title="UNet 3+",
    year=2020,
    paper="2004.08790",
    dims=(2, 3),
    outputs="logits of each stage, presence of labels",
    parameters=26_989_637,
)
class UNet3Plus(nn.Module):
    """Encoder of a U-Net; every decoder stage fuses all finer, equal and coarser features.

    Finer features are max-pooled, coarser ones upsampled, each is convolved to as many channels
    as the finest stage has, and their concatenation is convolved again.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        deep_supervision: While training, return logits of all stages, finest first.
        class_guided: Tell from the coarsest features which labels an image shows; in evaluation
            the others are below the background everywhere.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``; while training with deep supervision a list of them, of
          size ``ceil(sp / total stride)`` at each stage

    Raises:
        ConfigError: If there is no stride, or one does not fit.
    """

    level_decay = 1.0

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 16,
        max_width: int = 1024,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        deep_supervision: bool = True,
        class_guided: bool = False,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("unet3plus", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        self.deep_supervision = deep_supervision
        self.encoder = nn.ModuleList(
            ConvStack(before, here, style=style)
            for before, here in pairwise((in_channels, *stages.widths))
        )
        self.pools = stages.pools(style)
        num_stages = len(stages.widths)
        fused = num_stages * width
        self.branches, self.decoder = nn.ModuleList(), nn.ModuleList()  # coarsest stage first
        for here in range(num_stages - 2, -1, -1):
            branches = nn.ModuleList()
            for source, channels in enumerate(stages.widths):
                decoded = here < source < num_stages - 1
                conv = ConvNormAct(fused if decoded else channels, width, style=style)
                branches.append(nn.Sequential(_resize(stages, source, here, style), conv))
            self.branches.append(branches)
            self.decoder.append(ConvNormAct(fused, fused, style=style))
        inputs = [fused] * (num_stages - 1) + [stages.widths[-1]]
        self.heads = nn.ModuleList(
            style.operators.conv(channels, out_channels, 3, padding=1)
            for channels in (inputs if deep_supervision else inputs[:1])
        )
        self.scales = [stages.scale(stage) for stage in range(len(self.heads))]
        self.guide: nn.Module | None = None
        if class_guided:  # of each label whether it is absent, and whether it is there
            told = 2 * num_classes(None, out_channels)
            point = style.operators.conv(stages.widths[-1], told, 1)
            self.guide = nn.Sequential(OrderedDict(dropout=nn.Dropout(0.5), conv=point))
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 3 -> 1 channels, two dimensions, five heads."""
        return cls(3, 1, width=64, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, half its widths."""
        return topology.unet_options(share=0.5)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of the image; see the class for the list while training."""
        logits, coarsest = self._both(x)
        if self.guide is None or self.training or isinstance(logits, list):
            return logits
        absent, there = self._presence(coarsest)
        return without_absent(logits, absent > there)

    def objective(
        self,
        loss: Callable[[Tensor | list[Tensor], Tensor], Tensor],
        image: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """The loss of the logits plus, if classes guide, the cross-entropy of what is shown.

        Args:
            loss: ``loss(logits, labels)``.
            image: ``(B, C, *sp)``.
            labels: ``(B, 1, *sp)`` integers; ``L`` stands for voxels that nobody annotated.
        """
        logits, coarsest = self._both(image)
        total = loss(logits, labels)
        if self.guide is None:
            return total
        absent, there = self._presence(coarsest)
        of_guide = presence_loss(there, labels) + presence_loss(-absent, labels)
        return total + of_guide / 2

    def _both(self, x: Tensor) -> tuple[Tensor | list[Tensor], Tensor]:
        """Logits, while training with deep supervision of all stages, and coarsest features."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisor)
        features = [self.encoder[0](x)]
        for stage, pool in zip(self.encoder[1:], self.pools, strict=True):
            features.append(stage(pool(features[-1])))
        here = len(features) - 1
        for branches, fuse in zip(self.branches, self.decoder, strict=True):
            here -= 1  # every stage from here down is decoded already
            read = [branch(each) for branch, each in zip(listed(branches), features, strict=True)]
            features[here] = fuse(torch.cat(read, dim=1))
        if self.training and self.deep_supervision:
            return [
                crop(head(feature), size, scale)
                for head, feature, scale in zip(self.heads, features, self.scales, strict=True)
            ], features[-1]
        return crop(self.heads[0](features[0]), size), features[-1]

    def _presence(self, coarsest: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of each label but the background being absent, and being there."""
        assert self.guide is not None
        absent, there = self.guide(coarsest).flatten(2).amax(2).chunk(2, dim=1)
        return absent, there


def without_absent(logits: Tensor, absent: Tensor) -> Tensor:
    """Logits in which the labels that are absent lie below the background everywhere.

    Args:
        logits: ``(B, L, *sp)``.
        absent: ``(B, L - 1)`` bool, without the background.

    Examples:
        >>> logits = torch.tensor([[[0.0], [3.0], [4.0]]])
        >>> without_absent(logits, torch.tensor([[True, False]])).flatten().tolist()
        [0.0, -10.0, 4.0]
    """
    labels = logits[:, -absent.shape[1] :]
    lowered = torch.minimum(labels, logits[:, :1] - MARGIN)
    is_absent = absent.reshape(*absent.shape, *(1,) * (logits.ndim - 2))
    kept = logits[:, : logits.shape[1] - absent.shape[1]]
    return torch.cat([kept, torch.where(is_absent, lowered, labels)], dim=1)


def _resize(stages: Stages, source: int, here: int, style: Style) -> nn.Module:
    """From the size of one stage to that of another."""
    if source == here:
        return nn.Identity()
    fine, coarse = stages.scale(min(source, here)), stages.scale(max(source, here))
    step = tuple(big // small for big, small in zip(coarse, fine, strict=True))
    return style.operators.max_pool(step, step) if source < here else linear_upsampling(step)
