"""Losses: differentiable, lower is better, computed from logits in float32."""

from torch import nn

from medseg3d.registry import Registry

LOSSES: Registry[type[nn.Module]] = Registry("loss", __name__)
