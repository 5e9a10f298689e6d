"""A segmentation network, and a pair of generators that bring another vendor's images to it.

Reference:
    Yan et al., "The domain shift problem of medical image segmentation and vendor-adaptation by
    Unet-GAN", MICCAI 2019. arXiv:1910.13681

The segmentation network learns first, from labeled images of the source. Then it is frozen, and
generators between source and target learn from images alone. That an image comes back unchanged
is measured on what the segmentation network sees of it, not on voxels. The paper gives neither
the layouts of generators and discriminators nor the weights of the losses: layouts are CycleGAN's
here, but generators give what to add to the image and discriminators have no normalization, which
would hide brightness and contrast from them; weights are such that neither loss holds generators
at the identity. Both sides of the contest take their steps at
once. Its SSIM loss is the structure term alone, since brightness and contrast are to change.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import Style, he_initialize
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.blocks.translation import (
    Discriminator,
    Generator,
    far_from,
    unlike_in_structure,
)
from medseg3d.networks.residual.lv_unet import LVUNet
from medseg3d.networks.topology import Topology

Stage = Literal["segment", "adapt"]
SHRUNK = 2
"""Strides of the generators, the finest of the segmentation network."""


@NETWORKS.register(
    "unet_gan",
    title="Unet-GAN",
    year=2019,
    paper="1910.13681",
    dims=(2, 3),
    outputs="translated images",
    parameters=75_428_807,
)
class UnetGAN(nn.Module):
    """LV-Unet with generators and discriminators of a source and a target domain.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage of the segmentation network, of the
            generators and of the discriminators.
        max_width: Upper limit of the feature channels of the segmentation network.
        decoded: Channels of its decoder.
        strides: Its downsampling entering each stage but the first.
        first_kernel: Odd kernel of its first residual block.
        blocks: Residual blocks of a generator.
        generator_kernel: Odd kernel of a generator's first and last convolution.
        cycle: Weight of the loss of images that go to the other domain and back.
        structure: Weight of the loss of structure that translation changes.
        norm: ``"instance"``, ``"batch"`` or ``"none"``, of the segmentation network; generators
            have ``"instance"``, discriminators ``"none"``.
        stage: ``"segment"``, or ``"adapt"``, in which images are translated first.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If there is no stride, one does not fit, or the stage is unknown.
    """

    default_stages: ClassVar[dict[str, float]] = {"segment": 0.5, "adapt": 0.5}
    """Shares of the budget."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 16,
        max_width: int = 1024,
        decoded: int = 32,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        first_kernel: int | Sequence[int] = 7,
        blocks: int = 4,
        generator_kernel: int = 3,
        cycle: float = 1.0,
        structure: float = 0.3,
        norm: Norm = "instance",
        stage: Stage = "segment",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        self.segmentation = LVUNet(
            in_channels,
            out_channels,
            width=width,
            max_width=max_width,
            decoded=decoded,
            strides=strides,
            first_kernel=first_kernel,
            norm=norm,
            spatial_dims=spatial_dims,
        )
        self.divisor = self.segmentation.divisor
        self.cycle, self.structure = cycle, structure
        style = Style(norm="instance", spatial_dims=spatial_dims)

        def generator() -> Generator:
            made = Generator(
                in_channels,
                width=width,
                blocks=blocks,
                strides=strides[:SHRUNK],
                kernel=generator_kernel,
                style=style,
            )
            he_initialize(made.layers[:-1], negative_slope=style.negative_slope)
            return made

        self.to_source, self.to_target = generator(), generator()
        plain = Style(norm="none", spatial_dims=spatial_dims)
        self.source_judge = Discriminator(in_channels, width=width, style=plain)
        self.target_judge = Discriminator(in_channels, width=width, style=plain)
        self.set_stage(stage)

    @classmethod
    def paper(cls) -> Self:
        """The published segmentation network, 1 -> 3 channels, with CycleGAN's widths and depth."""
        return cls(
            *(1, 3),
            width=64,
            decoded=128,
            blocks=9,
            generator_kernel=7,
            norm="batch",
            spatial_dims=2,
        )

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Those of the segmentation network."""
        return LVUNet.plan_options(topology)

    @property
    def keeps_last(self) -> bool:
        """Whether the last weights are the best: no labeled image of the target tells better."""
        return self.stage == "adapt"

    def set_stage(self, stage: Stage) -> None:
        """Choose what trains: the network that segments, or those that translate.

        Raises:
            ConfigError: If the stage is unknown.
        """
        if stage not in get_args(Stage):
            raise ConfigError(f"stage must be one of {get_args(Stage)}, got {stage!r}")
        self.stage: Stage = stage
        for part in self.children():
            part.requires_grad_((part is self.segmentation) == (stage == "segment"))
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the parts; a frozen segmentation network stays as it predicts."""
        super().train(mode)
        if self.stage == "adapt":
            self.segmentation.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits of an image, which is of the target domain in stage ``"adapt"``."""
        logits: Tensor = self.segmentation(self.translate(x) if self.stage == "adapt" else x)
        return logits

    def translate(self, x: Tensor) -> Tensor:
        """An image of the target domain in the looks of the source, ``(B, C, *sp)``."""
        translated: Tensor = self.to_source(x)
        return translated

    def objective(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        image: Tensor,
        labels: Tensor,
        *,
        target: Tensor,
    ) -> Tensor:
        """The loss of the logits, or in stage ``"adapt"`` those of both sides of the contest.

        Args:
            loss: ``loss(logits, labels)``.
            image: Of the source, ``(B, C, *sp)``.
            labels: ``(B, 1, *sp)`` integers.
            target: Other images, of the target, ``(B, C, *sp)``.
        """
        if self.stage == "segment":
            return loss(self.segmentation(image), labels)
        ways = (
            (image, target, self.to_target, self.to_source, self.target_judge),
            (target, image, self.to_source, self.to_target, self.source_judge),
        )
        whole = image.new_zeros(())
        for here, real, there, back, judge in ways:
            fake = there(here)
            whole = whole + far_from(_unmoved(judge, fake), 1.0)
            whole = whole + self.structure * unlike_in_structure(here, fake)
            whole = whole + self.cycle * self._seen_unlike(here, back(fake))
            judged = far_from(judge(real), 1.0) + far_from(judge(fake.detach()), 0.0)
            whole = whole + judged / 2
        return whole

    def _seen_unlike(self, image: Tensor, other: Tensor) -> Tensor:
        """Mean absolute difference of what all stages of the segmentation network see."""
        with torch.no_grad():
            wanted = self.segmentation.features(image)
        seen = self.segmentation.features(other)
        parts = [
            (mine.float() - theirs.float()).abs().mean()
            for mine, theirs in zip(wanted, seen, strict=True)
        ]
        return torch.stack(parts).mean()


def _unmoved(judge: nn.Module, image: Tensor) -> Tensor:
    """What a network says of an image, to the gradient as if its weights were constants.

    Evaluation mode, which says the same, keeps it from being computed a second time for the
    gradient, with the weights that are not constant.
    """
    constants = {name: weight.detach() for name, weight in judge.named_parameters()}
    mode = judge.training
    said: Tensor = functional_call(judge.eval(), constants, (image,))
    judge.train(mode)
    return said
