"""Whether the weights of a bundle are those of the network it names."""

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from medseg3d import __version__
from medseg3d.bundle.description import Bundle
from medseg3d.bundle.refusal import UnfitError
from medseg3d.bundle.tensors import Weight, described
from medseg3d.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

SHOWN = 3
RANDOM = frozenset({"normal_", "uniform_", "kaiming_uniform_", "trunc_normal_"})
SPARE = 1000
"""Parameters that a constructor may make and throw away."""


def build(bundle: Bundle) -> "nn.Module":
    """The network that a bundle describes, with weights of its own."""
    from medseg3d.networks import build_network

    return build_network(
        bundle.network, bundle.channels, bundle.plan.num_labels, options=bundle.options
    )


def load_weights(network: "nn.Module", weights: "Mapping[str, Tensor]", *, source: str) -> None:
    """Put weights into a network built from the same description.

    Raises:
        ModelError: If names, dtypes or shapes differ; the first three are named.
    """
    misfit = _misfit(_weights_of(network), [described(*item) for item in weights.items()])
    if misfit:
        raise ModelError(f"{source}: {misfit}; it was made by another version or edited")
    network.load_state_dict(dict(weights))


def refuse_misfits(bundle: Bundle, weights: Iterable[Weight]) -> None:
    """Compare declared weights with the network, which is built without memory for it.

    Raises:
        UnfitError: If the network cannot be built from its options, or wants other weights.
    """
    weights = list(weights)
    network = _outline(bundle, most_parameters=len(weights) + SPARE)
    misfit = _misfit(_weights_of(network), weights)
    if misfit:
        raise UnfitError(misfit, "it was made by another version or edited")


def _outline(bundle: Bundle, *, most_parameters: int) -> "nn.Module":
    """The network on torch's ``meta`` device, given up if it grows beyond what the file holds."""
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook
    from torch.overrides import TorchFunctionMode

    from medseg3d.networks import NETWORKS

    if bundle.network not in NETWORKS:
        raise UnfitError(
            f"it names the network {bundle.network[:80]!r}, which medseg3d {__version__} does not "
            f"have (written by {bundle.medseg3d})",
            "use the version that wrote it",
        )

    class Unfilled(TorchFunctionMode):
        """Leaves out random values, whose absence nobody sees and which cost torch a second."""

        def __torch_function__(
            self, function: Any, types: Any, arguments: Any = (), options: Any = None
        ) -> Any:
            if arguments and getattr(function, "__name__", "") in RANDOM:
                return arguments[0]
            return function(*arguments, **(options or {}))

    count = 0

    def counted(_module: Any, _name: str, _parameter: Any) -> None:
        nonlocal count
        count += 1
        if count > most_parameters:
            raise OverflowError(f"more than {most_parameters} parameters")

    hook = register_module_parameter_registration_hook(counted)
    try:
        with warnings.catch_warnings(), torch.device("meta"), Unfilled():
            warnings.simplefilter("ignore")
            return build(bundle)
    except Exception as error:  # options from a file can make a constructor raise anything
        raise UnfitError(
            f"its network {bundle.network!r} cannot be built from its options ({error})",
            "it was made by another version or edited",
        ) from None
    finally:
        hook.remove()


def _weights_of(network: "nn.Module") -> list[Weight]:
    return [described(name, tensor) for name, tensor in network.state_dict().items()]


def _misfit(wanted: Iterable[Weight], given: Iterable[Weight]) -> str:
    """The first weights that differ, in words, or nothing."""
    own, held = ({weight.name: weight for weight in side} for side in (wanted, given))
    differing = sorted(name for name in own.keys() | held if own.get(name) != held.get(name))
    if not differing:
        return ""
    shown = ", ".join(
        f"{name[:80]} (network {own.get(name, 'lacks it')}, file {held.get(name, 'lacks it')})"
        for name in differing[:SHOWN]
    )
    return f"{len(differing)} weights do not fit the network it names: {shown}"
