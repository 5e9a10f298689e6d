"""Parts of networks that make images of one kind look like those of another, and of their losses.

Reference:
    Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial
    networks", ICCV 2017. arXiv:1703.10593
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.networks.blocks.conv import ConvNormAct, ResidualStage
from medseg3d.networks.blocks.dimensions import Size
from medseg3d.networks.blocks.sizes import crop, pad_to_multiple
from medseg3d.networks.blocks.stages import Stages, UpConv
from medseg3d.networks.blocks.style import Style

WINDOW = 7
"""Voxels per axis within which images are compared."""

VARIANCE_FLOOR = (0.03 * 5) ** 2 / 2
"""Added to variances, as SSIM does for images that span 5 standard deviations: noise in flat parts
is no structure."""


class Generator(nn.Module):
    """What is to be added to an image so that it looks like one of another kind.

    Args:
        channels: Image channels.
        width: Channels of the first convolution; doubled by each stride.
        blocks: Residual blocks at the coarsest resolution.
        strides: Downsampling before them, undone after them.
        kernel: Odd kernel of the first and last convolution.
        style: Normalization and activation.

    Shape:
        - input and output: ``(B, channels, *sp)``, any size
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int,
        blocks: int,
        strides: Sequence[Size],
        kernel: int,
        style: Style,
    ) -> None:
        super().__init__()
        stages = Stages.of(
            "a generator", width, width * 2 ** len(strides), strides, style.spatial_dims
        )
        self.divisor = stages.divisor
        layers: list[nn.Module] = [ConvNormAct(channels, width, kernel=kernel, style=style)]
        for (before, here), step in zip(pairwise(stages.widths), stages.steps, strict=True):
            layers.append(ConvNormAct(before, here, stride=step, style=style))
        deepest = stages.widths[-1]
        layers += [ResidualStage(deepest, deepest, depth=2, style=style) for _ in range(blocks)]
        for (below, here), step in zip(
            pairwise(stages.widths[::-1]), stages.steps[::-1], strict=True
        ):
            layers.append(UpConv(below, here, stride=step, style=style))
        layers.append(style.operators.conv(width, channels, kernel, padding=kernel // 2))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """The image in its new looks."""
        change = self.layers(pad_to_multiple(image, self.divisor))
        return image + crop(change, image.shape[2:])


class Discriminator(nn.Sequential):
    """Whether each part of an image is of a kind, as numbers near 1 or 0.

    Kernels of 3 voxels, where the paper has 4, let patches of any size be judged.

    Args:
        channels: Image channels.
        width: Channels of the first convolution; doubled by each of the next three.
        style: Normalization, but of the first convolution, and activation.

    Shape:
        - input: ``(B, channels, *sp)``
        - output: ``(B, 1, *sp / 8)``
    """

    def __init__(self, channels: int, *, width: int, style: Style) -> None:
        conv, act = style.operators.conv, style.make_activation
        super().__init__(
            nn.Sequential(conv(channels, width, 3, 2, 1), act(width)),
            ConvNormAct(width, 2 * width, stride=2, style=style),
            ConvNormAct(2 * width, 4 * width, stride=2, style=style),
            ConvNormAct(4 * width, 8 * width, style=style),
            conv(8 * width, 1, 3, padding=1),
        )


def far_from(judged: Tensor, wanted: float) -> Tensor:
    """Mean squared distance of a discriminator's numbers from what they should be.

    References:
        Mao et al., "Least squares generative adversarial networks", ICCV 2017. arXiv:1611.04076
    """
    return (judged.float() - wanted).square().mean()


def unlike_in_structure(image: Tensor, other: Tensor) -> Tensor:
    """1 minus the mean correlation of two images in small windows; 0 of the same structure.

    That is the structure term of SSIM: brightness and contrast, in which kinds of images may
    differ, have no part.

    Args:
        image: ``(B, C, *sp)``.
        other: The same shape.

    References:
        Wang et al., "Image quality assessment: from error visibility to structural similarity",
        IEEE Trans. Image Process. 13(4), 2004. https://doi.org/10.1109/TIP.2003.819861
    """
    image, other = image.float(), other.float()
    pool = functional.avg_pool2d if image.ndim == 4 else functional.avg_pool3d

    def mean(values: Tensor) -> Tensor:
        averaged: Tensor = pool(values, WINDOW, 1, WINDOW // 2, count_include_pad=False)
        return averaged

    first, second = mean(image), mean(other)
    both = mean(image * other) - first * second
    spread = (mean(image.square()) - first.square()).clamp_min(0)
    other_spread = (mean(other.square()) - second.square()).clamp_min(0)
    scale = torch.sqrt((spread + VARIANCE_FLOOR) * (other_spread + VARIANCE_FLOOR))
    return 1 - ((both + VARIANCE_FLOOR) / scale).mean()
