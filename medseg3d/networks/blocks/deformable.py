"""Convolutions that learn where to look.

Reference:
    Dai et al., "Deformable convolutional networks", ICCV 2017. arXiv:1703.06211
"""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.networks.blocks.style import Style

EDGE = 3


class DeformableConv(nn.Module):
    """Convolution of three voxels per axis, each of which is moved by a learned offset.

    A convolution of the input gives, at each voxel, one displacement in voxels for each of the
    ``3**d`` taps; all channels share it. Values between voxels are interpolated linearly, those
    outside are zero. Offsets begin at zero, where this is an ordinary convolution.

    The taps are computed one after the other, which takes no other library and, in evaluation,
    no more memory than one of them.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp)``
    """

    def __init__(self, in_channels: int, out_channels: int, *, style: Style) -> None:
        super().__init__()
        dims = style.spatial_dims
        conv = style.operators.conv
        self.taps = tuple(product(range(EDGE), repeat=dims))
        self.offsets = conv(in_channels, dims * len(self.taps), EDGE, padding=EDGE // 2)
        self.conv = conv(in_channels, out_channels, EDGE, padding=EDGE // 2, bias=False)
        self.rest()

    def rest(self) -> None:
        """Set all offsets to zero, for a network that draws its weights anew."""
        for parameter in self.offsets.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve what lies at the displaced places."""
        offsets = self.offsets(x)
        with torch.autocast(x.device.type, enabled=False):  # places need more than bfloat16
            exact = torch.promote_types(x.dtype, torch.float32)
            return self._gathered(x.to(exact), offsets.to(exact))

    def _gathered(self, x: Tensor, offsets: Tensor) -> Tensor:
        weight = self.conv.get_parameter("weight").to(x).flatten(2).unbind(2)
        total = x.new_zeros(())
        narrows = len(weight[0]) < x.shape[1]  # reading and mixing may change places
        for moved, of_tap in zip(self._moved(x, offsets), weight, strict=True):
            seen = _mixed(of_tap, x) if narrows else x
            seen = functional.grid_sample(seen, moved, align_corners=False)
            total = total + (seen if narrows else _mixed(of_tap, seen))
        return total

    def _moved(self, x: Tensor, offsets: Tensor) -> Iterator[Tensor]:
        """Where each tap reads, ``(B, *sp, d)`` as ``grid_sample`` counts: last axis first."""
        size = x.shape[2:]
        steps = [torch.arange(length, device=x.device, dtype=x.dtype) for length in size]
        here = torch.meshgrid(*steps, indexing="ij")
        for tap, place in enumerate(self.taps):
            axes = []
            for axis, (length, at) in enumerate(zip(size, place, strict=True)):
                voxel = here[axis] + (at - EDGE // 2) + offsets[:, tap * len(size) + axis]
                axes.append((2 * voxel + 1) / length - 1)
            yield torch.stack(axes[::-1], dim=-1)


def _mixed(weight: Tensor, x: Tensor) -> Tensor:
    """Channels ``(O, C)`` times ``(B, C, *sp)``."""
    return torch.einsum("oc,bc...->bo...", weight, x)


class DeformableStack(nn.Sequential):
    """Two deformable convolutions, each normalized and activated.

    Shape:
        - input: ``(B, in_channels, *sp)``
        - output: ``(B, out_channels, *sp)``
    """

    def __init__(self, in_channels: int, out_channels: int, *, style: Style) -> None:
        super().__init__(
            *(
                nn.Sequential(
                    OrderedDict(
                        conv=DeformableConv(before, out_channels, style=style),
                        norm=style.make_norm(out_channels),
                        act=style.make_activation(out_channels, inplace=True),
                    )
                )
                for before in (in_channels, out_channels)
            )
        )
