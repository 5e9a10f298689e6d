"""Dense encoder and two decoders, of regions and of their contours, that tell each other.

Reference:
    Zhou et al., "CIA-Net: robust nuclei instance segmentation with contour-aware information
    aggregation", IPMI 2019. arXiv:1903.05358

The depth of the encoder is not printed; here it is DenseNet-121. Features are added where one
re-implementation joins them. The published loss of the regions is ``smooth_truncated``; here
it is the one that was chosen. Contours are those between labels, in the stead of the borders of
cells: what is predicted are labels, not instances.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import (
    ConvNormAct,
    DenseBlock,
    DenseTransition,
    Style,
    crop,
    he_initialize,
    pad_to_multiple,
)
from medseg3d.networks.blocks.stages import linear_upsampling
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.dense.denseunet import block_widths
from medseg3d.networks.dense.saunet import LAYERS, label_edges
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "cia_net",
    title="CIA-Net (contour-aware)",
    year=2019,
    paper="1903.05358",
    dims=(2, 3),
    outputs="logits of each stage, contours",
    parameters=19_025_542,
)
class CIANet(nn.Module):
    """DenseNet-121 down; at each stage up, features of regions and contours are exchanged.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        stem: Channels of the first convolution.
        growth: Channels that each dense layer adds.
        layers: Dense layers per block, at least two blocks, finest first.
        lateral: Channels of both decoders.
        stem_stride: Stride of the first convolution; logits are upsampled by it.
        deep_supervision: While training, return logits of all stages, finest first.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``; while training with deep supervision a list of them, of
          size ``ceil(sp / total stride)`` at each stage but the first

    Raises:
        ConfigError: If there are fewer than two blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stem: int = 64,
        growth: int = 32,
        layers: Sequence[int] = LAYERS,
        lateral: int = 256,
        stem_stride: int = 1,
        deep_supervision: bool = True,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        conv = style.operators.conv
        grown = block_widths(stem, growth, layers)
        self.divisor = (stem_stride * 2 ** (len(grown) - 1),) * spatial_dims
        self.deep_supervision = deep_supervision
        self.stem = ConvNormAct(
            in_channels, stem, kernel=7, stride=stem_stride, bias=False, style=style
        )
        self.blocks = nn.ModuleList(
            DenseBlock(before, depth=depth, growth=growth, style=style)
            for before, depth in zip((stem, *(w // 2 for w in grown)), layers, strict=False)
        )
        self.downs = nn.ModuleList(
            DenseTransition(width, width // 2, stride=2, style=style) for width in grown[:-1]
        )
        self.regions, self.contours = (  # coarsest first
            nn.ModuleList(conv(width, lateral, 1) for width in grown[::-1]) for _ in range(2)
        )
        self.widen = linear_upsampling((2,) * spatial_dims)
        self.exchanges = nn.ModuleList(Exchange(lateral, style=style) for _ in self.downs)
        self.enlarge = linear_upsampling((stem_stride,) * spatial_dims)
        num_heads = len(self.exchanges) if deep_supervision else 1
        self.heads = nn.ModuleList(conv(lateral, out_channels, 1) for _ in range(num_heads))
        self.contour_heads = nn.ModuleList(conv(lateral, 1, 1) for _ in range(num_heads))
        self.scales = [(stem_stride * 2**stage,) * spatial_dims for stage in range(num_heads)]
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 3 -> 1 channels and one of contours, in two dimensions."""
        return cls(3, 1, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Width and depth of the plan; a first stride, because volumes are large."""
        return {
            "stem": 2 * topology.width,
            "growth": max(1, topology.width // 2),
            "lateral": 2 * topology.width,
            "layers": LAYERS[: max(2, topology.num_stages - 1)],
            "stem_stride": 2,
        }

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of the image; see the class for the list while training."""
        logits, _ = self._both(x)
        return logits if self.training and self.deep_supervision else logits[0]

    def objective(
        self, loss: Callable[[list[Tensor], Tensor], Tensor], image: Tensor, labels: Tensor
    ) -> Tensor:
        """The loss of the logits plus the Dice loss of the contours, with stages weighed likewise.

        Args:
            loss: ``loss(logits, labels)``, of one or several stages.
            image: ``(B, C, *sp)``.
            labels: ``(B, 1, *sp)`` integers; ``L`` stands for voxels that nobody annotated.
        """
        logits, contours = self._both(image)
        unknown = logits[0].shape[1]
        edges, known = label_edges(labels, unknown), labels != unknown
        weights = [getattr(loss, "decay", 0.5) ** stage for stage in range(len(contours))]
        of_contours = torch.stack(
            [
                weight * contour_loss(contour, edges, known, scale)
                for weight, contour, scale in zip(weights, contours, self.scales, strict=True)
            ]
        )
        return loss(logits, labels) + of_contours.sum() / sum(weights)

    def _both(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of labels and of contours of all stages that have heads, finest first."""
        size = x.shape[2:]
        x = self.stem(pad_to_multiple(x, self.divisor))
        features = [self.blocks[0](x)]
        for block, down in zip(self.blocks[1:], self.downs, strict=True):
            features.append(block(down(features[-1])))
        region, contour = self.regions[0](features[-1]), self.contours[0](features[-1])
        found: list[tuple[Tensor, Tensor]] = []
        for place, exchange in enumerate(self.exchanges, start=1):
            feature = features[-1 - place]
            region, contour = exchange(
                self.widen(region) + self.regions[place](feature),
                self.widen(contour) + self.contours[place](feature),
            )
            found.insert(0, (region, contour))
        regions, contours = zip(*found, strict=True)
        return (
            self._logits(self.heads, regions, size),
            self._logits(self.contour_heads, contours, size),
        )

    def _logits(
        self, heads: nn.ModuleList, decoded: Sequence[Tensor], size: Sequence[int]
    ) -> list[Tensor]:
        found: list[Tensor] = []
        for head, features, scale in zip(heads, decoded, self.scales, strict=False):
            logits = head(features)
            found.append(crop(logits, size, scale) if found else crop(self.enlarge(logits), size))
        return found


class Exchange(nn.Module):
    """Features of regions and of contours, joined, and each told again from what they share.

    Shape:
        - region, contour and both outputs: ``(B, channels, *sp)``
    """

    def __init__(self, channels: int, *, style: Style) -> None:
        super().__init__()
        self.region, self.contour = (ConvNormAct(channels, channels, style=style) for _ in range(2))
        self.shared = ConvNormAct(2 * channels, channels, style=style)
        self.to_region, self.to_contour = (
            ConvNormAct(channels, channels, style=style) for _ in range(2)
        )

    def forward(self, region: Tensor, contour: Tensor) -> tuple[Tensor, Tensor]:
        """Join, and part again."""
        shared = self.shared(torch.cat([self.region(region), self.contour(contour)], dim=1))
        return self.to_region(shared), self.to_contour(shared)


def contour_loss(
    logits: Tensor, edges: Tensor, known: Tensor, scale: Sequence[int] | None = None
) -> Tensor:
    """Dice loss of contours, the mean over images; a coarse voxel with any edge in it is one.

    Args:
        logits: ``(B, 1, *sp)``, perhaps coarser than the edges.
        edges: ``(B, 1, *full)``, true on contours.
        known: ``(B, 1, *full)``, true on voxels that count.
        scale: Voxels of the edges per coarse voxel, the last of which may reach beyond them;
            without it the edges are parted evenly.

    Examples:
        >>> edges = torch.tensor([[[True, False, False, False]]])
        >>> known = torch.ones_like(edges)
        >>> loss = contour_loss(torch.zeros(1, 1, 2), edges, known)
        >>> round(loss.item(), 4)  # 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
        0.3333
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    both = torch.cat([edges, known], dim=1).to(logits)
    if both.shape[2:] != logits.shape[2:]:
        for axis, step in enumerate(scale or ()):
            missing = -both.shape[axis + 2] % step
            both = functional.pad(both, [0, 0] * (both.ndim - 3 - axis) + [0, missing])
        both = _largest(both, logits.shape[2:])
    reference, counted = both.chunk(2, dim=1)
    probability = (logits.sigmoid() * counted).flatten(1)
    shared = (probability * reference.flatten(1)).sum(1)
    total = probability.sum(1) + reference.flatten(1).sum(1)
    return (1 - (2 * shared + 1) / (total + 1)).mean()


def _largest(x: Tensor, size: Sequence[int]) -> Tensor:
    """Maximum of each of so many parts of each axis."""
    pools: dict[int, Any] = {
        1: functional.adaptive_max_pool1d,
        2: functional.adaptive_max_pool2d,
        3: functional.adaptive_max_pool3d,
    }
    pooled: Tensor = pools[len(size)](x, tuple(size))
    return pooled
