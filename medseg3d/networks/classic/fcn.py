"""Fully convolutional network: coarse scores upsampled and added to finer ones.

Reference:
    Long et al., "Fully convolutional networks for semantic segmentation", CVPR 2015.
    arXiv:1411.4038

The published network pads the image by 100 voxels and cuts the scores back; here all
convolutions keep the size. Weights learned on photographs are not loaded.
"""

from typing import Literal, Self

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import Style, crop, he_initialize, pad_to_multiple
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.blocks.vgg import vgg_stages

DROPOUT = 0.5
COARSEST = 32


@NETWORKS.register(
    "fcn",
    title="FCN-32s, 16s, 8s",
    year=2015,
    paper="1411.4038",
    dims=(2, 3),
    parameters=134_489_759,
)
class FCN(nn.Module):
    """VGG-16 as convolutions, with scores of up to three scales added.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage.
        wide: Channels of the two convolutions that were fully connected.
        finest: Scale of the finest scores: 8, 16 or 32.
        kernel: Odd kernel of the first of the two.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of 32 need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If ``finest`` is another number or the kernel even.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        wide: int = 512,
        finest: Literal[8, 16, 32] = 8,
        kernel: int = 3,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        if finest not in (8, 16, 32) or kernel % 2 == 0:
            raise ConfigError(
                f"fcn: finest must be 8, 16 or 32 and kernel odd, got {finest} and {kernel}"
            )
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        self.divisor = (COARSEST,) * spatial_dims
        conv, up = style.operators.conv, style.operators.conv_transpose
        self.encoder = vgg_stages(in_channels, width, style=style)
        self.pool = style.operators.max_pool(2, 2)
        self.wide = nn.Sequential(
            conv(8 * width, wide, kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            conv(wide, wide, 1),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
        )
        self.score = conv(wide, out_channels, 1)
        finer = [8 * width, 4 * width][: (COARSEST // finest).bit_length() - 1]
        self.finer_scores = nn.ModuleList(conv(channels, out_channels, 1) for channels in finer)
        he_initialize(self, negative_slope=style.negative_slope)
        self.ups = nn.ModuleList(up(out_channels, out_channels, 4, 2, 1, bias=False) for _ in finer)
        self.last_up = up(out_channels, out_channels, 2 * finest, finest, finest // 2, bias=False)
        for each in (*self.ups, self.last_up):
            _interpolate_linearly(each.get_parameter("weight"))

    @classmethod
    def paper(cls) -> Self:
        """FCN-8s, 3 -> 21 channels, in two dimensions."""
        return cls(3, 21, width=64, wide=4096, kernel=7, norm="none", spatial_dims=2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image."""
        size = x.shape[2:]
        x = pad_to_multiple(x, self.divisor)
        pooled = []
        for stage in self.encoder:
            x = self.pool(stage(x))
            pooled.append(x)
        scores = self.score(self.wide(pooled.pop()))
        for up, score in zip(self.ups, self.finer_scores, strict=True):
            scores = up(scores) + score(pooled.pop())
        return crop(self.last_up(scores), size)


@torch.no_grad()
def _interpolate_linearly(weight: Tensor) -> None:
    """Make a transposed convolution's weights those of linear interpolation, label by label."""
    edge = weight.shape[2]
    line = 1 - (torch.arange(edge) - (edge - 1) / 2).abs() / (edge // 2)
    kernel = line
    for _ in weight.shape[3:]:
        kernel = kernel[..., None] * line
    nn.init.zeros_(weight)
    for label in range(len(weight)):
        weight[label, label] = kernel.to(weight)
