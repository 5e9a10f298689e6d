"""Networks of MONAI by the name of their class: ``monai:SwinUNETR``.

Whatever the class calls its channels and dimensions is filled in; what a measured plan knows
(patch, strides, kernels, widths) is given to a class that asks for it by one of the usual names;
all else are the options of the class.

Reference:
    Cardoso et al., "MONAI: an open-source framework for deep learning in healthcare", 2022.
    arXiv:2211.02701
"""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from medseg3d.errors import ConfigError, UnknownNameError
from medseg3d.networks import MONAI
from medseg3d.networks.blocks import crop, pad_to_multiple
from medseg3d.networks.blocks.conv3d import make_safe
from medseg3d.networks.topology import Topology

DIMENSIONS = ("spatial_dims", "dimensions")
INPUTS = ("in_channels", "in_chns", "num_channels")
OUTPUTS = ("out_channels", "out_chns", "num_classes", "n_classes")
STEPS = (1, 2, 4, 8, 16, 32, 64)
"""What may have to divide the edges of an image."""


class MonaiClass:
    """One class of ``monai.networks.nets``, built like a network of our own.

    Args:
        name: ``monai:`` and the name of the class.
        spatial_dims: 3 for volumes, 2 for slices.

    Raises:
        UnknownNameError: If MONAI has no such class, or it makes no logits by its signature.
    """

    def __init__(self, name: str, spatial_dims: int = 3) -> None:
        from monai.networks import nets

        wanted = name.removeprefix(MONAI)
        classes = {
            each: kind
            for each, kind in vars(nets).items()
            if inspect.isclass(kind) and issubclass(kind, nn.Module) and _labels_images(kind)
        }
        if wanted not in classes:
            by_small = {each.lower(): each for each in classes}
            close = get_close_matches(wanted.lower(), by_small, n=1)
            hint = (
                f"did you mean {MONAI}{by_small[close[0]]}?"
                if close
                else "known: " + (", ".join(sorted({kind.__name__ for kind in classes.values()})))
            )
            raise UnknownNameError(f"MONAI has no network {wanted!r} that labels images; {hint}")
        self.name = name
        self.spatial_dims = spatial_dims
        self.kind: Callable[..., nn.Module] = classes[wanted]
        self.options = tuple(inspect.signature(self.kind).parameters)

    def plan_options(self, topology: Topology) -> dict[str, Any]:
        """What the class asks for of what the plan knows."""
        widths = [
            min(topology.width * 2**stage, topology.max_width)
            for stage in range(topology.num_stages)
        ]
        wanted = inspect.signature(self.kind).parameters
        if "upsample_kernel_size" in wanted:  # counts the first stage as a stride too
            return {
                "kernel_size": topology.kernels,
                "strides": ((1,) * self.spatial_dims, *topology.strides),
                "upsample_kernel_size": topology.strides,
                "filters": widths,
            }
        known = {
            "channels": widths,
            "strides": topology.strides,
            "img_size": topology.patch_size,
        }
        return {
            option: value
            for option, value in known.items()
            if option in wanted and wanted[option].default is inspect.Parameter.empty
        }

    def __call__(self, in_channels: int, out_channels: int, /, **options: Any) -> nn.Module:
        """Build it.

        Raises:
            ConfigError: If an option is unknown or a value wrong, or it makes no logits of the
                image's size.
        """
        for option in options:
            if option not in self.options:
                close = get_close_matches(option, self.options, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise ConfigError(
                    f"network {self.name!r} has no option {option!r}; {hint}valid options: "
                    f"{', '.join(self.options)}"
                )
        if options.get("pretrained"):
            raise ConfigError(
                f"network {self.name!r}: pretrained would download weights, which a run and its "
                "model must not depend on; leave it out"
            )
        filled = {
            **_filled(self.options, DIMENSIONS, self.spatial_dims),
            **_filled(self.options, INPUTS, in_channels),
            **_filled(self.options, OUTPUTS, out_channels),
        }
        if "deep_supervision" in self.options:
            filled["deep_supervision"] = False
        taken = set(filled) & set(options)
        if taken:
            raise ConfigError(
                f"network {self.name!r}: {', '.join(sorted(taken))} cannot be given, because the "
                "data or this program decides; leave it out"
            )
        options = {**options, **filled}
        with torch.device("meta"):
            outline = self._built(options).eval()
        ends, fixed = (in_channels, out_channels), options.get("img_size")
        divisor = _divisor(self.name, outline, ends, fixed, spatial_dims=self.spatial_dims)
        return MonaiNetwork(self.name, self._built(options), divisor)

    def _built(self, options: Mapping[str, Any]) -> nn.Module:
        try:
            with _SmallNumbers():
                return make_safe(self.kind(**options))
        except Exception as error:  # MONAI's classes raise what they like
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"network {self.name!r} cannot be built: {first}; give its options as "
                f"network.options, of which there are {', '.join(self.options)}"
            ) from error


class MonaiNetwork(nn.Module):
    """A network of MONAI that takes images of any size.

    Args:
        name: As it was asked for.
        network: Gives logits, or a list of which the first are the logits.
        divisor: Sizes it takes are multiples of these.

    Attributes:
        may_idle: Some classes have weights that make none of the logits.

    Shape:
        - input: ``(B, C, *sp)``
        - output: ``(B, L, *sp)``
    """

    may_idle = True

    def __init__(self, name: str, network: nn.Module, divisor: tuple[int, ...]) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the image.

        Raises:
            ConfigError: If the class refuses it, as many do when one voxel is left to normalize.
        """
        padded = pad_to_multiple(x, self.divisor)
        try:
            logits = _first(self.network(padded))
        except ValueError as error:
            raise ConfigError(
                f"network {self.name!r} does not take windows of {tuple(padded.shape[2:])} "
                f"voxels: {error}; give a larger patch_size, or options with fewer stages"
            ) from error
        return crop(logits, x.shape[2:])


class _SmallNumbers(TorchFunctionMode):
    """Numbers that a constructor reads are real ones, also where weights take no memory."""

    real: ClassVar = frozenset({torch.linspace})

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        options = dict(options or {})
        if function in self.real:
            options.setdefault("device", "cpu")
        return function(*arguments, **options)


def _divisor(
    name: str, outline: nn.Module, ends: tuple[int, int], fixed: Any, *, spatial_dims: int
) -> tuple[int, ...]:
    """Least divisor of each axis, tried on images without values.

    A network that takes images of one size only has that size as its divisor.
    """
    in_channels, out_channels = ends
    whole = (3 * STEPS[-1],) * spatial_dims

    def fits(size: tuple[int, ...]) -> bool:
        try:
            with torch.device("meta"), torch.no_grad():
                logits = _first(outline(torch.empty(1, in_channels, *size)))
        except Exception:  # what it takes is what is to be found out
            return False
        return isinstance(logits, Tensor) and logits.shape == (1, out_channels, *size)

    def divides(step: int, axis: int) -> bool:
        before, after = whole[:axis], whole[axis + 1 :]
        return all(fits((*before, times * step, *after)) for times in (1, 3))

    if fits(whole):
        return tuple(
            next(step for step in STEPS if step == STEPS[-1] or divides(step, axis))
            for axis in range(spatial_dims)
        )
    if fixed is not None:
        only = (fixed,) * spatial_dims if isinstance(fixed, int) else tuple(fixed)
        if len(only) == spatial_dims and fits(only):
            return only
    raise ConfigError(
        f"network {name!r} gives no logits of the size of a volume with these options; take a "
        "network that segments, or other options"
    )


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, (list, tuple)) else output


def _filled(options: tuple[str, ...], names: tuple[str, ...], value: int) -> dict[str, int]:
    return next(({name: value} for name in names if name in options), {})


def _labels_images(kind: type) -> bool:
    options = tuple(inspect.signature(kind).parameters)
    return bool(_filled(options, INPUTS, 0) and _filled(options, OUTPUTS, 0))
