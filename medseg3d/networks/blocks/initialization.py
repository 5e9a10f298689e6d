"""Initial weights."""

from torch import nn


def he_initialize(network: nn.Module, *, negative_slope: float) -> None:
    """Draw all convolution weights by He's rule and set their biases to zero.

    Args:
        network: Changed in place.
        negative_slope: Slope of its activations for negative values.

    References:
        .. [1] He et al., "Delving Deep into Rectifiers", ICCV 2015. arXiv:1502.01852
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=negative_slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def orthogonal_initialize(network: nn.Module) -> None:
    """Draw all convolution weights with orthogonal rows or columns and set biases to zero.

    Args:
        network: Changed in place.

    References:
        .. [1] Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear
           neural networks", ICLR 2014. arXiv:1312.6120
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
