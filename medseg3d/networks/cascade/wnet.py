"""Two U-Nets in a row that find segments without labels: one divides, the other rebuilds.

Reference:
    Xia and Kulis, "W-Net: a deep model for fully unsupervised image segmentation", 2017.
    arXiv:1711.08506

The paper takes two steps per batch, one for the cut and one for the reconstruction; here one step
is taken on their sum. With equal weights the error hides the cut for long, so it weighs less. The
conditional random field and the merging of segments are left out: which segments make up a label
is told by :meth:`WNet.name_segments`.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.stages import Stages, Step
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.topology import Topology

GRAY_LEVELS = 51.0
"""Levels of an 8-bit image per standard deviation, five of which it spans; the cut counts them."""

LEAST = 1e-6
"""Probability that a label has at the least."""


@NETWORKS.register(
    "wnet",
    title="W-Net (unsupervised)",
    year=2017,
    paper="1711.08506",
    dims=(2, 3),
    outputs="segments and reconstruction",
    parameters=19_224_071,
)
class WNet(nn.Module):
    """Segments of the image, from which the image can be rebuilt.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Labels ``L`` that the segments are given to, background included.
        segments: Segments ``K`` to find, at least ``L``.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        reconstruction: Weight of the mean squared error of the rebuilt image.
        dropout: Share of features set to zero while training.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``, log-probabilities

    Attributes:
        names: The label of each segment, a buffer; in turn, until they are named.

    Raises:
        ConfigError: If there is no stride, one does not fit, or there are too few segments.
    """

    unsupervised: ClassVar[str] = "soft_normalized_cut"
    """The loss that :meth:`objective` needs, in place of one that knows labels."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        segments: int = 8,
        width: int = 16,
        max_width: int = 1024,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        reconstruction: float = 0.1,
        dropout: float = 0.0,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        if segments < out_channels:
            raise ConfigError(
                f"wnet: {out_channels} labels need at least as many segments, got {segments}"
            )
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("wnet", width, max_width, strides, spatial_dims)
        self.divisor = stages.divisor
        self.reconstruction = reconstruction
        self.out_channels = out_channels
        self.encoder = Half(in_channels, segments, stages, dropout=dropout, style=style)
        self.decoder = Half(segments, in_channels, stages, dropout=dropout, style=style)
        self.names: Tensor
        self.register_buffer("names", torch.arange(segments) % out_channels)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The size of the public one, 3 -> 4 -> 3 channels, in two dimensions."""
        return cls(3, 4, segments=4, width=64, dropout=0.65, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, half its widths."""
        return topology.unet_options(share=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities of the labels: those of their segments added up."""
        labels = torch.arange(self.out_channels, device=self.names.device)
        belongs = self.names == labels[:, None]
        found = self.segment(x).softmax(dim=1)
        likely = torch.einsum("lk,bk...->bl...", belongs.to(found.dtype), found)
        return likely.clamp_min(LEAST).log()

    def segment(self, x: Tensor) -> Tensor:
        """Logits of the segments, ``(B, K, *sp)``."""
        return crop(self.encoder(pad_to_multiple(x, self.divisor)), x.shape[2:])

    def name_segments(self, names: Sequence[int]) -> None:
        """Say which label each segment belongs to."""
        self.names.copy_(torch.as_tensor(names))

    def objective(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        image: Tensor,
        labels: Tensor,  # noqa: ARG002 - no labels are needed, which is the point
    ) -> Tensor:
        """The cut between the segments plus the weighted error of the rebuilt image.

        Args:
            loss: ``loss(logits, image)``, the soft normalized cut.
            image: ``(B, C, *sp)``, of about unit standard deviation.
            labels: Not looked at.
        """
        size = image.shape[2:]
        segments = self.encoder(pad_to_multiple(image, self.divisor))
        rebuilt = crop(self.decoder(segments.softmax(dim=1)), size)
        error = functional.mse_loss(rebuilt.to(image.dtype), image)
        return loss(crop(segments, size), GRAY_LEVELS * image) + self.reconstruction * error


class Half(nn.Module):
    """A U-Net; all convolutions but those of the finest stage are separable.

    Shape:
        - input: ``(B, in_channels, *sp)``, a multiple of the product of all steps
        - output: ``(B, out_channels, *sp)``
    """

    def __init__(
        self, in_channels: int, out_channels: int, stages: Stages, *, dropout: float, style: Style
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            _pair(before, here, separable=number > 0, dropout=dropout, style=style)
            for number, (before, here) in enumerate(pairwise((in_channels, *stages.widths)))
        )
        self.pools = stages.pools(style)
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for number in range(len(stages.steps) - 1, -1, -1):
            below, here = stages.widths[number + 1], stages.widths[number]
            self.ups.append(_up(below, here, stages.steps[number], style))
            self.decoder.append(
                _pair(2 * here, here, separable=number > 0, dropout=dropout, style=style)
            )
        self.head = style.operators.conv(stages.widths[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Down, up, and the head."""
        skips = []
        for stage, pool in zip(self.encoder, self.pools, strict=False):
            skips.append(stage(x))
            x = pool(skips[-1])
        x = self.encoder[-1](x)
        for up, fuse in zip(self.ups, self.decoder, strict=True):
            x = fuse(torch.cat([skips.pop(), up(x)], dim=1))
        made: Tensor = self.head(x)
        return made


def _up(below: int, here: int, step: Step, style: Style) -> nn.Module:
    """Transposed convolution with kernels of 3 voxels, whatever its stride."""
    missing = tuple(edge - 1 for edge in step)
    return style.operators.conv_transpose(below, here, 3, step, 1, missing)


def _pair(before: int, here: int, *, separable: bool, dropout: float, style: Style) -> nn.Module:
    """Twice convolution, activation, normalization, and dropout if there is any."""
    layers: list[nn.Module] = []
    for channels in (before, here):
        conv = style.operators.conv
        if separable:
            layers.append(conv(channels, channels, 3, padding=1, groups=channels))
            layers.append(conv(channels, here, 1))
        else:
            layers.append(conv(channels, here, 3, padding=1))
        layers += [style.make_activation(here, inplace=True), style.make_norm(here)]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
