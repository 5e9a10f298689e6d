"""The list of backends, and what each must offer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

from medseg3d.device import Precision
from medseg3d.inference.backends.source import Source
from medseg3d.inference.network import WindowNetwork
from medseg3d.registry import Registry

if TYPE_CHECKING:
    from medseg3d.device import Device


class Backend(WindowNetwork, Protocol):
    """A network that is ready to compute, and can be had in another arithmetic too."""

    @classmethod
    def open(cls, source: Source, *, precision: Precision, device: Device, threads: int) -> Self:
        """The network of a bundle.

        Raises:
            UnfitBackendError: If this backend cannot compute this network here.
            ModelError: If the bundle is damaged.
        """

    def twin(self, precision: Precision) -> Self:
        """The same network in another arithmetic, sharing what can be shared."""


BACKENDS: Registry[type[Backend]] = Registry("backend", "medseg3d.inference.backends")
"""Registered with the facts

``title``: what it is.
``devices``: kinds of device it computes on.
``precisions``: the arithmetics it has.
``speed``: how many times faster than torch's eager float32 it computes the default U-Net on a
    CPU, by arithmetic.
``window_bytes``: memory that it takes on a CPU at the most, also while it is converted, per voxel
    of a window and channel of the finest stage of the default U-Net, by arithmetic, measured.
``kept_bytes``: what of that each further model of several keeps, if it has memory of its own.
``auto``: whether it is also taken without being asked for.
``needs``: modules that must be installed.
``extra``: the extra of medseg3d that installs them.

A class with an attribute ``converter`` computes another form of the network, which ``medseg3d
export`` can write too.
"""


class UnfitBackendError(Exception):
    """This backend cannot compute this network here, another one can; the message is why."""
