"""Siamese U-Net: one encoder, and only what differs from the template goes up."""

import torch

from medseg3d.networks import build_network
from medseg3d.networks.unet.siamese_unet import SiameseUNet


def small(**options: object) -> SiameseUNet:
    torch.manual_seed(0)
    chosen = {"width": 4, "norm": "none", **options}
    network = build_network("siamese_unet", 1, 2, options=chosen)
    assert isinstance(network, SiameseUNet)
    return network.eval()


def test_an_image_like_its_template_says_nothing() -> None:
    network = small()
    image = torch.randn(1, 1, 8, 8, 8)
    logits = network(image, image)
    flat = network(torch.zeros_like(image), torch.zeros_like(image))
    torch.testing.assert_close(logits, flat)
    assert not torch.allclose(network(image, torch.zeros_like(image)), flat)


def test_without_a_template_each_side_is_compared_with_the_other() -> None:
    for axis in (0, 2):
        network = small(mirror_axis=axis)
        image = torch.randn(1, 1, 8, 7, 5)
        torch.testing.assert_close(network(image), network(image, image.flip(axis + 2)))
        symmetric = image + image.flip(axis + 2)
        torch.testing.assert_close(network(symmetric), network(symmetric, symmetric))


def test_a_lesion_on_one_side_is_seen_there() -> None:
    network = small(strides=(2,))
    image = torch.zeros(1, 1, 16, 8, 8)
    flat = network(image)
    image[..., 2:5, 3:6, 3:6] = 1.0
    changed = (network(image) - flat).abs().amax(1)[0] > 1e-6
    assert changed[2:5, 3:6, 3:6].any()


def test_features_are_weighed_by_what_they_have_more() -> None:
    """F (F - A)+ at the skips and (F - A)+ at the bottom, worked out with the parts."""
    network = small(strides=(2,))
    image, template = torch.randn(2, 1, 1, 8, 8, 8)
    own, other = network._encode(image), network._encode(template)
    bottom = (own[1] - other[1]).clamp_min(0)
    skip = own[0] * (own[0] - other[0]).clamp_min(0)
    joined = network.decoder[0](torch.cat([skip, network.ups[0](bottom)], 1))
    torch.testing.assert_close(network(image, template), network.head(joined))
