"""Segmentation networks, one file per architecture, in folders per family.

Contract: ``Net(in_channels, out_channels, *, ...)`` registered by one decorator with the
facts ``title=``, ``year=``, ``paper=`` (arXiv id or DOI), ``dims=``, ``parameters=`` (of
``paper()``) and, where it gives more than logits, ``outputs=`` (what, in words).

``eval()``: ``forward(x) -> logits (B, L, *spatial)`` for any input size. ``train()`` with
deep supervision: a list of logits, finest first; ``level_decay`` is the weight of each over the
one before it where that is not a half, and ``finest_apart`` is true where the finest has a loss
of its own if the chosen one brings it. Activations are never inside.

Every network has ``divisor``, one integer per voxel axis: sizes that are multiples of it are
processed without inner padding. Optional class methods: ``paper()`` builds the published
configuration, ``plan_options(topology)`` turns a measured plan into options. A network that
learns from more than logits has ``objective(loss, image, labels)``, which gives the whole loss of
a training step; ``loss(logits, labels)`` is the one that was chosen, and what else a batch holds
comes by name; one that makes no use of ``loss`` says so by ``has_own_loss``, and one that may hold
weights without a gradient by ``may_idle``. ``set_progress(used)`` is told before each step which
share of the training is over.

One that tells the class of an image has the option ``classes``, how many there are, gets those
of the batch as ``classes`` where they are given, and has ``classify(x) -> logits (B, K)``.

One that needs no labels names in ``unsupervised`` the loss of its objective, which compares with
the image, and has ``segment(x)`` and ``name_segments(names)``: held-out cases tell what its
segments are. One that makes images of one domain look like those of another has ``translate(x)``
and gets patches of the other as ``target``. ``default_stages`` are the shares of training stages
that it cannot do without, and ``keeps_last`` is true where validation does not tell which weights
are best.

A network that knows several answers gives the likeliest one as its logits. It has
``sample(x, noise)`` for the logits of any of them, ``noise`` being ``latent_size`` standard
normal numbers ``(latent_size,)``.

``monai:NAME`` is the class of that name in ``monai.networks.nets``; ``slices:NAME`` is a network
of two dimensions that labels volumes slice by slice.
"""

import inspect
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, cast

from torch import nn

from medseg3d.errors import ConfigError
from medseg3d.networks.topology import Topology
from medseg3d.registry import Registry

MONAI = "monai:"
SLICES = "slices:"


class _Networks(Registry[type[nn.Module]]):
    """Our networks, and those of MONAI and of slices by their prefixes."""

    def __getitem__(self, name: str) -> type[nn.Module]:
        if name.startswith(SLICES):
            from medseg3d.networks.slices import SliceClass

            return cast(type[nn.Module], SliceClass(name))
        if name.startswith(MONAI):
            from medseg3d.networks.from_monai import MonaiClass

            return cast(type[nn.Module], MonaiClass(name))  # is called and asked like one
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str) and name.startswith((MONAI, SLICES)):
            try:
                self[name]
            except ConfigError:
                return False
            return True
        return super().__contains__(name)

    def build(self, name: str, *args: Any, **options: Any) -> Any:
        """Build the network of that name.

        Raises:
            ConfigError: As of any registry, or if a number such as a width is below 1.
        """
        if not name.startswith((MONAI, SLICES)):
            self.expect_options(name, options, taken=len(args))
            parameters = inspect.signature(self[name]).parameters
            for option, value in options.items():
                least = min(_integers(parameters[option].default), default=0)
                if least > 0 and any(number < 1 for number in _integers(value)):
                    raise ConfigError(
                        f"network {name!r}: {option} must be 1 or more, got {value!r}"
                    )
        return super().build(name, *args, **options)


def _integers(value: object) -> Iterator[int]:
    """All integers of a number or of sequences of numbers."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _integers(each)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


NETWORKS: Registry[type[nn.Module]] = _Networks("network", __name__)


def build_network(
    name: str,
    in_channels: int,
    out_channels: int,
    *,
    topology: Topology | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> nn.Module:
    """Build a registered network; explicit options win over what the plan suggests.

    Args:
        name: Registered name, for instance ``"unet3d"``, or ``monai:`` and a class of MONAI;
            with ``slices:`` before it, in two dimensions.
        in_channels: Image channels ``C``.
        out_channels: Logit channels ``L``, background included.
        topology: What the plan measured; a network without ``plan_options`` ignores it.
        options: Keyword arguments of the network.

    Raises:
        ConfigError: If the network or one of its options is unknown, or a value is wrong.

    Examples:
        >>> network = build_network("unet3d", 1, 2, options={"width": 4, "strides": [2, 2]})
        >>> network.divisor
        (4, 4, 4)
    """
    planned = {} if topology is None else planned_options(name, topology)
    network: nn.Module = NETWORKS.build(name, in_channels, out_channels, **{**planned, **options})
    return network


def planned_options(name: str, topology: Topology) -> dict[str, Any]:
    """Options that a measured plan suggests to a network, if it listens to one."""
    suggest = getattr(NETWORKS[name], "plan_options", None)
    return dict(suggest(topology)) if suggest else {}
