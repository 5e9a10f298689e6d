"""U-Net whose skips pass through additive attention gates.

References:
    Oktay et al., "Attention U-Net: learning where to look for the pancreas", MIDL 2018.
    arXiv:1804.03999

The paper's gate works on the coarser decoder features and resamples; here, as in the widely
used port, decoder features are upsampled first and the gate sees both at one resolution.
"""

from collections.abc import Sequence
from typing import Any, Self

from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvStack, Style
from medseg3d.networks.blocks.attention import AttentionGate
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.blocks.u_shape import UShape
from medseg3d.networks.topology import Topology


@NETWORKS.register(
    "attention_unet",
    title="Attention U-Net",
    year=2018,
    paper="1804.03999",
    dims=(2, 3),
    parameters=34_878_573,
)
class AttentionUNet(UShape):
    """U-Net with an attention gate on every skip, steered by the upsampled decoder features.

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
        stages = Stages.of("attention_unet", width, max_width, strides, spatial_dims)
        super().__init__(
            in_channels, out_channels, stages, style, stage=ConvStack, gate=AttentionGate
        )

    @classmethod
    def paper(cls) -> Self:
        """The common two-dimensional configuration, 3 -> 1 channels."""
        return cls(3, 1, width=64, norm="batch", spatial_dims=2)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Widths and strides of the plan."""
        return topology.unet_options()
