"""Segmentation networks, one file per architecture, in folders per family.

Contract: ``Net(in_channels, out_channels, *, ...)`` registered by one decorator.
``eval()``: ``forward(x) -> logits (B, L, *spatial)``; ``train()`` with deep
supervision: a list of logits, finest first. Activations are never inside.
"""

from torch import nn

from medseg3d.registry import Registry

NETWORKS: Registry[type[nn.Module]] = Registry("network", __name__)
