"""U-Net that recalibrates the features of every stage, by channel and by voxel.

Reference:
    Roy et al., "Concurrent spatial and channel squeeze & excitation in fully convolutional
    networks", MICCAI 2018. arXiv:1803.02579

The figure leaves the coarsest stage out; here, as in the count that is known, it is in.
"""

from collections.abc import Sequence
from typing import Any, Self

from torch import nn

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvStack, Style
from medseg3d.networks.blocks.attention import SqueezeExcite
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.blocks.u_shape import UShape
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "scse_unet",
    title="scSE U-Net",
    year=2018,
    paper="1803.02579",
    dims=(2, 3),
    parameters=36_278_219,
)
class ScseUNet(UShape):
    """U-Net with concurrent spatial and channel squeeze and excitation after every stage.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If there is no stride, or one does not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 32,
        max_width: int = 1024,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("scse_unet", width, max_width, strides, spatial_dims)
        super().__init__(in_channels, out_channels, stages, style, stage=_stage)

    @classmethod
    def paper(cls) -> Self:
        """The two-dimensional network, 1 -> 2 channels."""
        return cls(1, 2, width=64, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Widths and strides of the plan."""
        return topology.unet_options()


def _stage(in_channels: int, out_channels: int, *, style: Style) -> nn.Sequential:
    convs = ConvStack(in_channels, out_channels, style=style)
    return nn.Sequential(convs, SqueezeExcite(out_channels, style=style))
