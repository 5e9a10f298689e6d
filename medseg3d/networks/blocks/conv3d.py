"""3D convolutions that avoid a broken kernel of torch's CPU library."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Conv3d(nn.Conv3d):
    """``torch.nn.Conv3d``, in float32 where bfloat16 on a CPU gives wrong gradients.

    With a kernel longer than the image along an axis, oneDNN's bfloat16 gradient of the
    weights reads and writes outside its buffers: values are random, the process may abort
    (seen in torch 2.13 with a processor that has ``avx512_bf16``). Such images are the
    coarsest stages of a network, where float32 costs little.

    Shape:
        - input: ``(B, C, I, J, K)``
        - output: ``(B, L, *sp)`` as in torch
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if _is_unsafe(x, self.kernel_size):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


class ConvTranspose3d(nn.ConvTranspose3d):
    """``torch.nn.ConvTranspose3d`` with the same care as :class:`Conv3d`.

    Shape:
        - input: ``(B, C, I, J, K)``
        - output: ``(B, L, *sp)`` as in torch
    """

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Convolve."""
        size = None if output_size is None else list(output_size)
        if _is_unsafe(x, self.kernel_size):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float(), size)
        return super().forward(x, size)


SAFE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv3d: Conv3d,
    nn.ConvTranspose3d: ConvTranspose3d,
}
"""What stands in for modules of torch."""


def make_safe(network: nn.Module) -> nn.Module:
    """Let the convolutions of a network that is not ours be such ones, in place."""
    for module in network.modules():
        if type(module) in SAFE:
            module.__class__ = SAFE[type(module)]
    return network


def _is_unsafe(x: Tensor, kernel: Sequence[int]) -> bool:
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and any(size < edge for size, edge in zip(x.shape[2:], kernel, strict=True))
    )
