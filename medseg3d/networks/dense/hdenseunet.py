"""H-DenseUNet: a 2D DenseUNet on slices guides a light 3D one, and both are fused.

Reference:
    Li et al., "H-DenseUNet: Hybrid Densely Connected UNet for Liver and Tumor Segmentation
    from CT Volumes", IEEE TMI 37(12), 2018. arXiv:1709.07330
"""

from collections.abc import Sequence
from typing import Any, Literal, Self, TypeAlias, get_args

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import ConvNormAct, Style, he_initialize
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.dense.denseunet import (
    DROPOUT,
    LAYERS_2D,
    LAYERS_3D,
    DenseUNet2D,
    DenseUNet3D,
    SliceFrame,
    planned_blocks,
)
from medseg3d.networks.topology import Topology

Stage: TypeAlias = Literal["2d", "3d", "joint"]
Context: TypeAlias = Literal["probabilities", "logits"]


@NETWORKS.register(
    "hdenseunet",
    title="H-DenseUNet",
    year=2018,
    paper="1709.07330",
    dims=(3,),
    outputs="logits of both halves",
    parameters=65_616_289,
)
class HDenseUNet(nn.Module):
    """2D features within slices and 3D features across them, fused by a small head.

    The 2D half labels every slice. Its result joins the image as auto-context of the 3D
    half. The features of both are added and fused to the hybrid logits.

    Training has three stages (:meth:`set_stage`): the 2D half alone, then the 3D half and
    the fusion over a frozen 2D half, then all of it. With deep supervision, training
    returns full-size logits in the order hybrid, 2D, 3D. Weights that halve along the
    list give the 2D logits the paper's 0.5; the 3D logits are our addition, and the head
    that makes them is there only with deep supervision.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        stem: Channels of both first convolutions; the fused features have two thirds.
        growth: Channels that each dense layer adds, in the 2D and in the 3D half.
        layers: Dense layers per block of the 2D and of the 3D half, at least two blocks,
            the same number in both.
        norm: ``"instance"``, ``"batch"`` (the paper) or ``"none"``.
        slice_axis: Voxel axis across the slices, best the coarsest one.
        slice_chunk: Slices in one 2D pass, to bound the memory of inference; all when absent.
        context: Whether the 3D half sees the 2D ``"probabilities"`` or ``"logits"``.
        context_scale: Factor on the context; 250 with logits brings the paper's to the
            scale of Hounsfield units.
        long_skips: Give the 3D half skips; see :class:`DenseUNet3D`.
        deep_supervision: While training, also return the logits of the halves.
        stage: The training stage to start in.

    Shape:
        - input: ``(B, C, I, J, K)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, I, J, K)``; while training with deep supervision the list
          ``[hybrid, 2D, 3D]``, without the 2D logits in stage ``"3d"``. In stage ``"2d"``
          always the 2D logits alone.

    Raises:
        ConfigError: If a choice is unknown or the halves do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stem: int = 96,
        growth: Sequence[int] = (48, 32),
        layers: Sequence[Sequence[int]] = (LAYERS_2D, LAYERS_3D),
        norm: Norm = "instance",
        slice_axis: int = -1,
        slice_chunk: int | None = None,
        context: Context = "probabilities",
        context_scale: float = 1.0,
        long_skips: bool = False,
        deep_supervision: bool = True,
        stage: Stage = "joint",
    ) -> None:
        super().__init__()
        if context not in get_args(Context):
            raise ConfigError(f"context must be one of {get_args(Context)}, got {context!r}")
        if len(growth) != 2 or len(layers) != 2 or len(layers[0]) != len(layers[1]):
            raise ConfigError(
                "hdenseunet needs growth and layers for its 2D and its 3D half, with as many "
                f"blocks in both, got growth {growth!r} and layers {layers!r}"
            )
        self.context = context
        self.context_scale = context_scale
        self.deep_supervision = deep_supervision
        self.half_2d = DenseUNet2D(
            in_channels,
            out_channels,
            stem=stem,
            growth=growth[0],
            layers=layers[0],
            norm=norm,
            slice_chunk=slice_chunk,
        )
        self.half_3d = DenseUNet3D(
            in_channels + out_channels,
            out_channels,
            stem=stem,
            growth=growth[1],
            layers=layers[1],
            norm=norm,
            long_skips=long_skips,
        )
        if not deep_supervision:
            self.half_3d.head = nn.Identity()
        self.frame = SliceFrame(slice_axis, in_plane=2 ** (len(layers[0]) + 1), across=4)
        self.divisor = self.frame.divisor

        width = self.half_3d.num_features
        style = Style(norm=norm, activation="relu")
        self.fuse = ConvNormAct(width, width, dropout=DROPOUT, style=style)
        self.head = nn.Conv3d(width, out_channels, 1)
        he_initialize(self, negative_slope=style.negative_slope)
        self.set_stage(stage)

    @classmethod
    def paper(cls) -> Self:
        """The published network, 1 -> 3 channels."""
        return cls(1, 3, norm="batch", context="logits", context_scale=250.0)

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Slices across the coarsest axis, widths and depth of the plan."""
        blocks = planned_blocks(topology)
        return {
            "slice_axis": topology.coarse_axis,
            "stem": 3 * topology.width,
            "growth": (3 * topology.width // 2, topology.width),
            "layers": (LAYERS_2D[:blocks], LAYERS_3D[:blocks]),
        }

    def set_stage(self, stage: Stage) -> None:
        """Choose what trains: ``"2d"``, ``"3d"`` with the fusion, or ``"joint"``.

        What does not train gets no gradients and stays in evaluation mode.

        Raises:
            ConfigError: If the stage is unknown.
        """
        if stage not in get_args(Stage):
            raise ConfigError(f"stage must be one of {get_args(Stage)}, got {stage!r}")
        self.stage: Stage = stage
        self.requires_grad_(True)
        for part in self._frozen_parts():
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the parts that the stage trains."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    def _frozen_parts(self) -> list[nn.Module]:
        if self.stage == "2d":
            return [self.half_3d, self.fuse, self.head]
        return [self.half_2d] if self.stage == "3d" else []

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits of the volume; see the class for the list while training."""
        size = x.shape[2:]
        x = self.frame.enter(x)
        within = self.half_2d.features(x)
        logits_2d = self.half_2d.head(within)
        if self.stage == "2d":
            return self.frame.leave(logits_2d, size)

        context = logits_2d.softmax(dim=1) if self.context == "probabilities" else logits_2d
        across = self.half_3d.features(torch.cat([x, self.context_scale * context], dim=1))
        logits = self.head(self.fuse(within + across))
        if not (self.training and self.deep_supervision):
            return self.frame.leave(logits, size)
        outputs = [logits, logits_2d, self.half_3d.head(across)]
        if self.stage == "3d":
            del outputs[1]  # nothing learns through them
        return [self.frame.leave(output, size) for output in outputs]
