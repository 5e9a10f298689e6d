"""U-Net that draws maps of random numbers at several scales, from coarse to fine.

Reference:
    Kohl et al., "A hierarchical probabilistic U-Net for modeling multi-scale ambiguities", 2019.
    arXiv:1905.13077

The objective is the published one: the cross-entropy of hard voxels is held below a limit, in
nats per voxel, while the divergences are made small (:class:`.geco.Geco`); the loss that was
chosen is then not used. ``objective="elbo"`` takes that loss instead. Sums are divided by the
number of voxels that they are taken over. The released posterior has a last stage of the decoder
that nothing reads; here only with ``whole_posterior``. The published network has no
normalization; a 3D network with small batches needs one, which is on residual branches only, and
makes the features large: so the weights that tell the distributions begin small.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import NETWORKS
from medseg3d.networks.blocks import Style, crop, pad_to_multiple
from medseg3d.networks.blocks.gaussian import Choose, Gaussian, GaussianHead, with_labels
from medseg3d.networks.blocks.geco import Geco, hard_voxels
from medseg3d.networks.blocks.initialization import orthogonal_initialize
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.blocks.style import Norm
from medseg3d.networks.probabilistic.core import Core, nearest_upsamplings, residual_stage
from medseg3d.networks.topology import Topology

SHARE = 0.02
"""Voxels that the published reconstruction looks at."""

Objective: TypeAlias = Literal["geco", "elbo"]


@NETWORKS.register(
    "hierarchical_probabilistic_unet",
    title="Hierarchical probabilistic U-Net",
    year=2019,
    paper="1905.13077",
    dims=(2, 3),
    outputs="samples",
    parameters=21_877_230,
)
class HierarchicalProbabilisticUNet(nn.Module):
    """A residual U-Net whose coarse stages of the decoder are each told a map of random numbers.

    Which distribution they have follows from the image and the numbers of coarser stages. The
    answer without a draw takes their means. While training, a second network that sees the
    labels too tells which numbers lead to them.

    Args:
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        width: Feature channels of the finest stage; they double with each stage.
        max_width: Upper limit of the feature channels.
        strides: Downsampling entering each stage but the first, one integer or one per axis.
        latents: Random numbers per voxel of the coarsest stages, coarsest first; at most as many
            stages as there are strides.
        objective: ``"geco"``, which brings its own loss, or ``"elbo"``, which weighs the
            divergence by ``beta`` and takes the loss that was chosen.
        limit: Cross-entropy that is good enough for ``"geco"``, in nats.
        beta: Weight of the divergence in ``"elbo"``.
        whole_posterior: Give the posterior also the stage that nothing reads.
        norm: ``"instance"``, ``"batch"`` or ``"none"``.
        spatial_dims: 2 or 3.

    Shape:
        - input: ``(B, C, *sp)``, any size; multiples of ``self.divisor`` need no padding
        - output: ``(B, L, *sp)``

    Raises:
        ConfigError: If a stride does not fit, latents and strides do not, or the objective is
            unknown.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 24,
        max_width: int = 192,
        strides: Sequence[int | Sequence[int]] = (2, 2, 2, 2),
        latents: Sequence[int] = (1, 1),
        objective: Objective = "geco",
        limit: float = 0.05,
        beta: float = 1.0,
        whole_posterior: bool = False,
        norm: Norm = "instance",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation="relu", spatial_dims=spatial_dims)
        stages = Stages.of(
            "hierarchical_probabilistic_unet", width, max_width, strides, spatial_dims
        )
        _refuse(latents, strides, objective)
        self.divisor = stages.divisor
        self.may_idle = whole_posterior
        self.latents = tuple(latents)
        self.latent_size = sum(latents)
        self.num_labels = out_channels
        self.beta = beta
        self.geco = Geco(limit) if objective == "geco" else None
        self.has_own_loss = self.geco is not None
        self.prior = Core(in_channels, stages, latents, style)
        self.posterior = Core(
            in_channels + out_channels, stages, latents, style, whole=whole_posterior
        )
        rest = len(strides) - len(latents)
        widths = stages.widths[rest::-1]  # of what the core has left, coarsest first
        self.ups = nearest_upsamplings(stages.steps[:rest][::-1])
        self.decoder = nn.ModuleList(
            residual_stage(below + here, here, style) for below, here in pairwise(widths)
        )
        self.head = style.operators.conv(widths[-1], out_channels, 1)
        orthogonal_initialize(self)
        for module in self.modules():
            if isinstance(module, GaussianHead):
                module.calm()

    @classmethod
    def paper(cls) -> Self:
        """The published network, 1 -> 2 channels, eight stages in two dimensions."""
        return cls(
            1,
            2,
            strides=(2,) * 7,
            latents=(1, 1, 1, 1),
            whole_posterior=True,
            norm="none",
            spatial_dims=2,
        )

    @classmethod
    def plan_options(cls, topology: Topology) -> dict[str, Any]:
        """Half the widths of the plan, as there are two networks, and its strides."""
        latents = (1,) * min(2, len(topology.strides))
        return {**topology.unet_options(share=0.5), "latents": latents}

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image for the means of its distributions."""
        return self._answered(x, lambda _, belief: belief.mean)

    def sample(self, x: Tensor, noise: Tensor) -> Tensor:
        """Logits of the image for one draw.

        Args:
            x: ``(B, C, *sp)``.
            noise: Standard normal numbers ``(latent_size,)``, the same for all cases and all
                voxels of a scale.
        """
        parts = noise.split_with_sizes(self.latents)

        def choose(scale: int, belief: Gaussian) -> Tensor:
            single = parts[scale].reshape(1, -1, *(1,) * (x.ndim - 2))
            return belief.at(single.to(belief.mean))

        return self._answered(x, choose)

    def objective(
        self, loss: Callable[[Tensor, Tensor], Tensor], image: Tensor, labels: Tensor
    ) -> Tensor:
        """A draw from the posterior shall lead to the labels, and the prior be near it.

        Args:
            loss: ``loss(logits, labels)``, for ``"elbo"`` only.
            image: ``(B, C, *sp)``.
            labels: ``(B, 1, *sp)`` integers.
        """
        both = pad_to_multiple(with_labels(image, labels, self.num_labels), self.divisor)
        drawn: list[Tensor] = []
        aims: list[Gaussian] = []
        beliefs: list[Gaussian] = []

        def draw(_: int, belief: Gaussian) -> Tensor:
            aims.append(belief)
            drawn.append(belief.drawn())
            return drawn[-1]

        def follow(scale: int, belief: Gaussian) -> Tensor:
            beliefs.append(belief)
            return drawn[scale]

        self.posterior(both, draw)
        logits = self._answered(image, follow)
        apart = [aim.divergence_from(mine) for aim, mine in zip(aims, beliefs, strict=True)]
        divergence = torch.stack(apart).sum(0).mean()
        if self.geco is None:
            return loss(logits, labels) + self.beta * divergence / image[0, 0].numel()
        reconstruction, number = hard_voxels(logits, labels, SHARE)
        whole: Tensor = self.geco(reconstruction, divergence * len(image) / number)
        return whole

    def _answered(self, x: Tensor, choose: Choose) -> Tensor:
        """Logits of the image for the numbers that are chosen from the prior."""
        size = x.shape[2:]
        x, skips = self.prior(pad_to_multiple(x, self.divisor), choose)
        for up, stage in zip(self.ups, self.decoder, strict=True):
            x = stage(torch.cat([skips.pop(), up(x)], dim=1))
        return crop(self.head(x), size)


def _refuse(latents: Sequence[int], strides: Sequence[object], objective: str) -> None:
    name = "hierarchical_probabilistic_unet"
    if not 1 <= len(latents) <= len(strides) or min(latents) < 1:
        raise ConfigError(
            f"{name}: latents are a positive number for each of 1 to {len(strides)} stages, got "
            f"{tuple(latents)}"
        )
    if objective not in ("geco", "elbo"):
        raise ConfigError(f"{name}: objective must be one of 'geco', 'elbo', got {objective!r}")
