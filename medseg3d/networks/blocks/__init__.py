"""Parts that networks share, for two or three spatial dimensions.

Letters: ``B`` batch, ``C`` channels, ``*sp`` two or three spatial axes.
"""

from medseg3d.networks.blocks.conv import (
    ConvNormAct,
    ConvStack,
    NormAct,
    NormActConv,
    ResidualStage,
    UpNormAct,
)
from medseg3d.networks.blocks.dense import DenseBlock, DenseTransition
from medseg3d.networks.blocks.dimensions import OPERATORS, Size, Sizes, per_axis, per_stage
from medseg3d.networks.blocks.initialization import he_initialize
from medseg3d.networks.blocks.sizes import crop, pad_to_multiple
from medseg3d.networks.blocks.slices import from_slices, to_slabs
from medseg3d.networks.blocks.style import InstanceNorm, Style

__all__ = [
    "OPERATORS",
    "ConvNormAct",
    "ConvStack",
    "DenseBlock",
    "DenseTransition",
    "InstanceNorm",
    "NormAct",
    "NormActConv",
    "ResidualStage",
    "Size",
    "Sizes",
    "Style",
    "UpNormAct",
    "crop",
    "from_slices",
    "he_initialize",
    "pad_to_multiple",
    "per_axis",
    "per_stage",
    "to_slabs",
]
