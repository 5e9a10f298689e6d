"""The U-Net, with concatenated skips, in two or three dimensions.

Reference:
    Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation",
    MICCAI 2015. arXiv:1505.04597

The published convolutions are not padded and their skips are cut; here they keep the size.
The published network has no normalization; a 3D network with small batches needs one.
"""

from collections.abc import Sequence
from typing import Any, Self

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvStack, Style
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.blocks.u_shape import UShape, transposed
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "unet", title="U-Net", year=2015, paper="1505.04597", dims=(2, 3), parameters=31_030_658
)
class UNet(UShape):
    """Two convolutions per stage, max pooling going down, transposed convolutions going up.

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
        stages = Stages.of("unet", width, max_width, strides, spatial_dims)
        super().__init__(in_channels, out_channels, stages, style, stage=ConvStack, up=transposed)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 1 -> 2 channels, in two dimensions."""
        return cls(1, 2, width=64, norm="none", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Widths and strides of the plan."""
        return topology.unet_options()
