"""3D convolution that avoids a broken kernel of torch's CPU library."""

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
        if torch.is_autocast_enabled("cpu") and x.device.type == "cpu":
            edges = zip(x.shape[2:], self.kernel_size, strict=True)
            if any(size < kernel for size, kernel in edges):
                with torch.autocast("cpu", enabled=False):
                    return super().forward(x.float())
        return super().forward(x)
