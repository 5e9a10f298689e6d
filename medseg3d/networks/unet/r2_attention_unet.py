"""R2U-Net whose skips pass through attention gates.

Reference:
    Alom et al., "Recurrent residual convolutional neural network based on U-Net (R2U-Net)
    for medical image segmentation", 2018. arXiv:1802.06955
    Oktay et al., "Attention U-Net", MIDL 2018. arXiv:1804.03999

One convolution serves all steps of a recurrent layer, as in the widely used port; the paper
has one for the input and one for the state.
"""

from collections.abc import Sequence
from typing import Any, Self

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import Style
from medseg3d.networks.blocks.attention import AttentionGate
from medseg3d.networks.blocks.recurrent import RecurrentResidual
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.blocks.u_shape import UShape
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "r2_attention_unet",
    title="R2AttU-Net",
    year=2018,
    paper="1802.06955",
    dims=(2, 3),
    parameters=39_442_925,
)
class R2AttentionUNet(UShape):
    """R2U-Net with an attention gate on every skip.

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
        width: int = 16,
        max_width: int = 1024,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of("r2_attention_unet", width, max_width, strides, spatial_dims)
        super().__init__(
            in_channels, out_channels, stages, style, stage=RecurrentResidual, gate=AttentionGate
        )

    @classmethod
    def paper(cls) -> Self:
        """The common two-dimensional configuration, 3 -> 1 channels."""
        return cls(3, 1, width=64, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Strides of the plan, half its widths."""
        return topology.unet_options(share=0.5)
