"""Segmentation networks, one file per architecture, in folders per family.

Contract: ``Net(in_channels, out_channels, *, ...)`` registered by one decorator with the
facts ``title=``, ``year=``, ``paper=`` (arXiv id or DOI) and ``dims=``.

``eval()``: ``forward(x) -> logits (B, L, *spatial)`` for any input size. ``train()`` with
deep supervision: a list of logits, finest first. Activations are never inside.

Every network has ``divisor``, one integer per voxel axis: sizes that are multiples of it
are processed without inner padding. Optional class methods: ``paper()`` builds the
published configuration, ``plan_options(topology)`` turns a measured plan into options.
"""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from torch import nn

from medseg3d.errors import ConfigError
from medseg3d.networks.topology import Topology
from medseg3d.registry import Registry

NETWORKS: Registry[type[nn.Module]] = Registry("network", __name__)


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
        name: Registered name, for instance ``"unet3d"``.
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
    network = NETWORKS[name]
    _check_option_names(name, network, options)
    plan_options = getattr(network, "plan_options", None)
    planned = plan_options(topology) if topology is not None and plan_options else {}
    return network(in_channels, out_channels, **{**planned, **options})


def _check_option_names(name: str, network: type[nn.Module], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(network).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            close = get_close_matches(option, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(
                f"network {name!r} has no option {option!r}; {hint}"
                f"valid options: {', '.join(known)}"
            )
