"""A density of objects, learned from where they are: one encoder, and a decoder gated by its twin.

Reference:
    Valloli and Mehta, "W-Net: reinforced U-Net for density map estimation", 2019. arXiv:1903.11249

The target is made of labels: each connected part of a label is one object, and stands for one
Gaussian around its center, of which as much lies inside the image as of any other, namely all.
Densities are learned in units of the highest value of one object, so that sizes and dimensions
need no weights of their own, and before the last rectifier, where all that was once found empty
could not be filled again. The gate learns where there is an object at all. Weights learned on
photographs are not loaded; without them and without a norm thirteen convolutions in a row come to
one value everywhere, so a plan gives them instance norms.
"""

from collections.abc import Callable
from itertools import pairwise
from math import pi
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvNormAct, Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.stages import linear_upsampling
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.blocks.vgg import vgg_stages, vgg_widths
from medseg3d.networks.topology import Topology

OBJECT = 0.5
"""A voxel is labeled where the density reaches this share of the highest of one object."""

NEAR = 0.1
"""Where it reaches this share, the gate is to be open."""

GATE_SHARE = 0.1
"""Weight of the gate's loss."""


@NETWORKS.register(
    "wnet_density",
    title="W-Net (density)",
    year=2019,
    paper="1903.11249",
    dims=(2, 3),
    outputs="density of objects",
    parameters=16_989_890,
)
class WNetDensity(nn.Module):
    """VGG-16 down; two decoders up, one of which gates the other.

    The logits tell voxels near the middle of an object; :meth:`density` tells how many there are.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage.
        sigma: Standard deviation of an object's density, in voxels of the image.
        norm: ``"none"``, as published, ``"batch"`` or ``"instance"``, which makes images with few
            and with many objects alike.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of 16 need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If there is no label besides background, or ``sigma`` is not above 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 16,
        sigma: float = 4.0,
        norm: Norm = "none",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        if out_channels < 2 or sigma <= 0:
            raise ConfigError(
                "wnet_density needs a label besides background and a sigma above 0, got "
                f"{out_channels} channels and sigma {sigma}"
            )
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        self.divisor = (16,) * spatial_dims
        self.has_own_loss = True
        self.sigma = sigma / 2  # the maps have half the resolution
        self.encoder = vgg_stages(in_channels, width, style=style)
        self.pool = style.operators.max_pool(2, 2)
        self.main, self.twin = Branch(width, style), Branch(width, style)
        last = self.main.out_channels
        self.gate = style.operators.conv(last, 1, 1)
        self.head = style.operators.conv(last, out_channels - 1, 1)
        self.up = linear_upsampling((2,) * spatial_dims)
        he_initialize(self, negative_slope=style.negative_slope)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 3 -> 1 density, in two dimensions."""
        return cls(3, 2, width=64, norm="none", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:  # noqa: ARG003 - of any shape
        """Norms, which weights learned on photographs could do without."""
        return {"norm": "instance"}

    @property
    def highest(self) -> float:
        """Density in the middle of one object, per voxel of the maps."""
        return float((2 * pi * self.sigma**2) ** (-len(self.divisor) / 2))

    def forward(self, x: Tensor) -> Tensor:
        """Logits: a label's where its density is near that of an object's middle."""
        heights = crop(self.up(self._maps(x)[0]), x.shape[2:])
        return torch.cat([torch.full_like(heights[:, :1], OBJECT), heights], dim=1)

    def density(self, x: Tensor) -> Tensor:
        """Objects per voxel of half the resolution, ``(B, L - 1, *ceil(sp / 2))``.

        The sum over voxels is the number of objects.
        """
        return self.highest * self._halves(self._maps(x)[0], x).relu()

    def objective(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],  # noqa: ARG002 - it compares with labels
        image: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Mean squared error of the density plus weighted cross-entropy of the gate.

        Args:
            loss: Not used.
            image: ``(B, C, *sp)``.
            labels: ``(B, 1, *sp)`` integers; those that are no label are not looked at.
        """
        maps, gate = (self._halves(each, image) for each in self._maps(image))
        num_labels = maps.shape[1] + 1
        target = object_density(labels, num_labels, self.sigma).to(maps.device) / self.highest
        counts = self._known(labels, num_labels).to(maps.device)
        total = counts.sum().clamp_min(1)
        error = ((maps.float() - target).square().mean(1, keepdim=True) * counts).sum() / total
        near = (target.amax(1, keepdim=True) > NEAR).float()
        missed = functional.binary_cross_entropy_with_logits(gate.float(), near, reduction="none")
        return error + GATE_SHARE * (missed * counts).sum() / total

    def _maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Density in units of the highest of an object, and logits of the gate, both padded."""
        x = pad_to_multiple(x, self.divisor)
        features = []
        for number, stage in enumerate(self.encoder):
            x = stage(self.pool(x) if number else x)
            features.append(x)
        gate = self.gate(self.twin(features))
        return self.head(self.main(features) * gate.sigmoid()), gate

    def _halves(self, maps: Tensor, image: Tensor) -> Tensor:
        """The part of maps of half the resolution that covers an image."""
        return crop(maps, image.shape[2:], (2,) * len(self.divisor))

    def _known(self, labels: Tensor, num_labels: int) -> Tensor:
        """1 where the first voxel of a block of two per axis was annotated, else 0."""
        blocks = (slice(None), slice(None), *(slice(None, None, 2) for _ in self.divisor))
        return (labels[blocks] < num_labels).float()


class Branch(nn.Module):
    """Up from the coarsest of five stages to half the resolution, joining what it meets.

    Shape:
        - input: features of the five stages of VGG, finest first
        - output: ``(B, out_channels, *sp / 2)``
    """

    def __init__(self, width: int, style: Style) -> None:
        super().__init__()
        _, *skips, below = vgg_widths(width)
        ends = [below, 4 * width, 2 * width, width]
        self.fuse = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(before + skip, after, kernel=1, style=style),
                ConvNormAct(after, after, style=style),
            )
            for (before, after), skip in zip(pairwise(ends), skips[::-1], strict=True)
        )
        self.out_channels = max(1, width // 2)
        self.last = ConvNormAct(width, self.out_channels, style=style)
        scale = (2.0,) * style.spatial_dims
        self.up = nn.Upsample(scale_factor=scale, mode="nearest")

    def forward(self, features: list[Tensor]) -> Tensor:
        """Join from coarse to fine; the finest stage is not read."""
        x = features[-1]
        for fuse, skip in zip(self.fuse, features[-2:0:-1], strict=True):
            x = fuse(torch.cat([skip, self.up(x)], dim=1))
        gated: Tensor = self.last(x)
        return gated


def object_density(labels: Tensor, num_labels: int, sigma: float) -> Tensor:
    """Density of the connected parts of each label, at half the resolution.

    Args:
        labels: ``(B, 1, *sp)`` integers.
        num_labels: Labels ``L``, background included; voxels of others belong to no object.
        sigma: Standard deviation of an object, in voxels of the density.

    Returns:
        ``(B, L - 1, *ceil(sp / 2))`` float32; each object sums to 1.

    Examples:
        >>> labels = torch.tensor([[[0, 2, 2, 0, 0, 2]]])
        >>> object_density(labels, 3, 1.0).sum(-1).round()
        tensor([[0., 2.]])
    """
    from scipy import ndimage

    arrays = labels[:, 0].cpu().numpy()
    size = [-(-edge // 2) for edge in arrays.shape[1:]]
    neighbors = np.ones((3,) * len(size), dtype=bool)
    density = np.zeros((len(arrays), num_labels - 1, *size), dtype=np.float32)
    for case, array in enumerate(arrays):
        for label in np.unique(array[(array > 0) & (array < num_labels)]).tolist():
            parts, count = ndimage.label(array == label, neighbors)
            for center in ndimage.center_of_mass(array == label, parts, range(1, count + 1)):
                density[case, label - 1] += _gaussian(center, size, sigma)
    return torch.from_numpy(density)


def _gaussian(center: tuple[float, ...], size: list[int], sigma: float) -> npt.NDArray[np.float64]:
    """A Gaussian that sums to 1 around a place of twice the resolution."""
    product: npt.NDArray[np.float64] = np.ones(())
    for middle, edge in zip(center, size, strict=True):
        away = np.arange(edge) - (middle - 0.5) / 2  # between the centers of voxels
        along = np.exp(-0.5 * (away / sigma) ** 2)
        product = np.multiply.outer(product, along / along.sum())
    return product
