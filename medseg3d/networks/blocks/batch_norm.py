"""Batch normalization that also takes one value per channel, of which no variance is known."""

from torch import Tensor, nn
from torch.nn import functional


def _normalized(norm: nn.BatchNorm2d | nn.BatchNorm3d, x: Tensor) -> Tensor:
    """By the running mean and variance, which stay as they are."""
    mean, variance = norm.running_mean, norm.running_var
    return functional.batch_norm(x, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)


class BatchNorm2d(nn.BatchNorm2d):
    """Torch's, but one value per channel is normalized in training as in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, scale and shift ``(B, C, *sp)``."""
        single = self.training and x.numel() == x.shape[1]
        return _normalized(self, x) if single else super().forward(x)


class BatchNorm3d(nn.BatchNorm3d):
    """The same of three dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, scale and shift ``(B, C, *sp)``."""
        single = self.training and x.numel() == x.shape[1]
        return _normalized(self, x) if single else super().forward(x)
