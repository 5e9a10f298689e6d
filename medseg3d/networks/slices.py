"""Networks of two dimensions on volumes, slice by slice: ``slices:unet``.

Options beside the network's own: ``slice_axis``, the voxel axis across the slices, and ``slab``,
how many slices it sees at once, that in the middle being the one it labels.

Reference:
    Slabs as in Li et al., "H-DenseUNet", IEEE TMI 37(12), 2018. arXiv:1709.07330
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import MONAI, NETWORKS, SLICES
from medseg3d.networks.blocks import from_slices, to_slabs
from medseg3d.networks.topology import Topology

Logits: TypeAlias = Tensor | list[Tensor]
Loss: TypeAlias = Callable[[Logits, Tensor], Tensor]


class SliceClass:
    """One registered network, built in two dimensions like a network of volumes.

    Args:
        name: ``slices:`` and the name of the network.

    Raises:
        ConfigError: If there is no such network, or it has no form in two dimensions.
    """

    def __init__(self, name: str) -> None:
        inner = name.removeprefix(SLICES)
        self._kind: Any
        self._build: Callable[..., nn.Module]
        if inner.startswith(MONAI):
            from medseg3d.networks.from_monai import MonaiClass

            self._kind = self._build = MonaiClass(inner, spatial_dims=2)
            return
        if inner.startswith(SLICES) or 2 not in NETWORKS.facts(inner)["dims"]:
            raise ConfigError(
                f"network {inner!r} cannot be trained on slices, because it takes volumes only; "
                "leave out --dims 2, or choose a network of two dimensions, such as unet "
                "(medseg3d list networks)"
            )
        self._kind = NETWORKS[inner]
        if hasattr(self._kind, "default_stages") or hasattr(self._kind, "unsupervised"):
            raise ConfigError(
                f"network {inner!r} is trained in a way of its own, which is only there for "
                "volumes; leave out --dims 2"
            )
        self._build = partial(NETWORKS.build, inner, spatial_dims=2)
        if hasattr(self._kind, "sample"):
            self.sample = SliceNetwork.sample

    def plan_options(self, topology: Topology) -> dict[str, Any]:
        """What the network makes of the plan within a slice, and the plan's axis."""
        axis = topology.coarse_axis if topology.slice_axis is None else topology.slice_axis
        suggest = getattr(self._kind, "plan_options", None)
        own = dict(suggest(topology.in_plane(axis))) if suggest else {}
        return own | {"slice_axis": axis}

    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        /,
        *,
        slice_axis: int = -1,
        slab: int = 1,
        **options: Any,
    ) -> nn.Module:
        """Build it.

        Raises:
            ConfigError: If an option is unknown or a value wrong.
        """
        if slice_axis not in range(-3, 3) or slab < 1 or slab % 2 == 0:
            raise ConfigError(
                "slice_axis must be an axis from -3 to 2 and slab an odd number of slices, got "
                f"{slice_axis!r} and {slab!r}"
            )
        network = self._build(slab * in_channels, out_channels, **options)
        return SliceNetwork(network, slice_axis, slab)


class SliceNetwork(nn.Module):
    """A network of two dimensions over the slices of volumes.

    Args:
        network: Takes ``(N, slab * C, i, j)``.
        slice_axis: Voxel axis across the slices.
        slab: Odd number of slices that it sees at once. At the ends of a volume the last slice
            stands in for those beyond.

    Shape:
        - input: ``(B, C, I, J, K)``
        - output: ``(B, L, I, J, K)``, or a list of them that are coarser within the slices
    """

    def __init__(self, network: nn.Module, slice_axis: int, slab: int) -> None:
        super().__init__()
        self.network = network
        for fact in ("level_decay", "finest_apart", "may_idle", "latent_size", "has_own_loss"):
            if hasattr(network, fact):
                setattr(self, fact, getattr(network, fact))
        self.axis = slice_axis % 3 + 2
        self.slab = slab
        in_plane: tuple[int, ...] = network.divisor  # type: ignore[assignment]
        self.divisor = (*in_plane[: self.axis - 2], 1, *in_plane[self.axis - 2 :])

    def forward(self, x: Tensor) -> Logits:
        """Logits of the volume."""
        return self._stacked(self.network(self._sliced(x, self.slab)), x.shape[0])

    def sample(self, x: Tensor, noise: Tensor) -> Tensor:
        """Logits of one answer of a network that knows several, the same one in all slices.

        Args:
            x: ``(B, C, I, J, K)``.
            noise: Standard normal numbers ``(latent_size,)``.

        Returns:
            ``(B, L, I, J, K)``.
        """
        sliced = self._sliced(x, self.slab)
        return self._stack(self.network.sample(sliced, noise), len(x))  # type: ignore[operator]

    @property
    def objective(self) -> Callable[[Loss, Tensor, Tensor], Tensor] | None:
        """What the network learns from beside its logits, of volumes; None if from nothing."""
        own = getattr(self.network, "objective", None)
        if own is None:
            return None

        def of_volumes(loss: Loss, image: Tensor, labels: Tensor) -> Tensor:
            def of_slices(logits: Logits, sliced: Tensor) -> Tensor:
                return loss(self._stacked(logits, len(image)), self._stack(sliced, len(image)))

            if (decay := getattr(loss, "decay", None)) is not None:  # of the weights of levels
                of_slices.decay = decay  # type: ignore[attr-defined]
            whole: Tensor = own(of_slices, self._sliced(image, self.slab), self._sliced(labels, 1))
            return whole

        return of_volumes

    def _sliced(self, volumes: Tensor, slab: int) -> Tensor:
        """``(B, C, I, J, K)`` to ``(B * slices, slab * C, i, j)``."""
        return to_slabs(volumes.movedim(self.axis, -1), slab)

    def _stack(self, slices: Tensor, num_volumes: int) -> Tensor:
        """``(B * slices, L, i, j)`` to ``(B, L, I, J, K)``."""
        return from_slices(slices, num_volumes).movedim(-1, self.axis)

    def _stacked(self, logits: Logits, num_volumes: int) -> Logits:
        """The same of one or several levels of logits."""
        if isinstance(logits, Tensor):
            return self._stack(logits, num_volumes)
        return [self._stack(level, num_volumes) for level in logits]
