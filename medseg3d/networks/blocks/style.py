"""The choices that all blocks of one network share."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks.blocks.dimensions import OPERATORS, Operators

Norm: TypeAlias = Literal["none", "batch", "instance"]
Activation: TypeAlias = Literal["relu", "leaky_relu", "prelu", "elu", "selu", "mish"]

LEAKY_SLOPE = 0.01
PRELU_SLOPE = 0.25


@dataclass(frozen=True, kw_only=True)
class Style:
    """Dimensions, normalization and activation, passed to every block as one value.

    Args:
        norm: ``"none"``, ``"batch"`` or ``"instance"``, with learned scale and shift.
        activation: ``"relu"``, ``"leaky_relu"`` (slope 0.01), ``"prelu"`` (one learned
            slope per channel), ``"elu"``, ``"selu"`` or ``"mish"``.
        spatial_dims: 2 or 3.

    Raises:
        ConfigError: If a choice is unknown.
    """

    norm: Norm = "instance"
    activation: Activation = "leaky_relu"
    spatial_dims: int = 3

    def __post_init__(self) -> None:
        for name, value, known in (
            ("norm", self.norm, get_args(Norm)),
            ("activation", self.activation, get_args(Activation)),
            ("spatial_dims", self.spatial_dims, tuple(OPERATORS)),
        ):
            if value not in known:
                choices = ", ".join(map(repr, known))
                raise ConfigError(f"{name} must be one of {choices}, got {value!r}")

    @property
    def operators(self) -> Operators:
        """Torch's modules for the style's dimensions."""
        return OPERATORS[self.spatial_dims]

    @property
    def negative_slope(self) -> float:
        """Initial slope of the activation for negative values, which He's rule needs."""
        return {"leaky_relu": LEAKY_SLOPE, "prelu": PRELU_SLOPE}.get(self.activation, 0.0)

    def make_norm(self, channels: int) -> nn.Module:
        """A fresh normalization of that many channels."""
        if self.norm == "none":
            return nn.Identity()
        return (
            self.operators.batch_norm(channels) if self.norm == "batch" else InstanceNorm(channels)
        )

    def make_activation(self, channels: int, *, inplace: bool = False) -> nn.Module:
        """A fresh activation; ``inplace`` only where nobody else reads its input."""
        if self.activation == "prelu":
            return nn.PReLU(channels, init=PRELU_SLOPE)
        if self.activation == "relu":
            return nn.ReLU(inplace)
        if self.activation == "elu":
            return nn.ELU(inplace=inplace)
        if self.activation == "selu":
            return nn.SELU(inplace)
        if self.activation == "mish":
            return nn.Mish()
        return nn.LeakyReLU(LEAKY_SLOPE, inplace)


class InstanceNorm(nn.Module):
    """Normalization of each channel of each case over its voxels, for any spatial shape.

    Equals ``torch.nn.InstanceNorm3d(channels, affine=True)``, but a single voxel, which
    that class rejects, becomes the learned shift.

    Shape:
        - input and output: ``(B, C, *sp)``

    References:
        .. [1] Ulyanov et al., "Instance Normalization", 2016. arXiv:1607.08022
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, scale and shift."""
        if x.is_cuda:  # autocast on CUDA would run group_norm, and all that follows, in float32
            return torch.instance_norm(
                x, self.weight, self.bias, None, None, True, 0.0, self.eps, True
            )
        return torch.group_norm(x, self.channels, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The channels, as in torch's own normalizations."""
        return f"{self.channels}, eps={self.eps}"
