"""The convolutions of VGG-16.

Reference:
    Simonyan and Zisserman, "Very deep convolutional networks for large-scale image
    recognition", ICLR 2015. arXiv:1409.1556
"""

from itertools import pairwise

from torch import nn

from medseg3d.networks.blocks.conv import ConvStack
from medseg3d.networks.blocks.style import Style

DEPTHS = (2, 2, 3, 3, 3)


def vgg_widths(width: int) -> tuple[int, ...]:
    """Channels of the five stages.

    Examples:
        >>> vgg_widths(64)
        (64, 128, 256, 512, 512)
    """
    return (width, 2 * width, 4 * width, 8 * width, 8 * width)


def vgg_stages(in_channels: int, width: int, *, style: Style) -> nn.ModuleList:
    """Five stages of convolutions that keep the size; pooling between them is the caller's."""
    ends = (in_channels, *vgg_widths(width))
    return nn.ModuleList(
        ConvStack(before, here, depth=depth, style=style)
        for (before, here), depth in zip(pairwise(ends), DEPTHS, strict=True)
    )
