"""U-Det: its pyramid, added up by hand."""

import torch
from torch import nn

from medseg3d.networks.blocks import Style
from medseg3d.networks.unet.u_det import Pyramid


def test_features_are_added_down_and_up_again() -> None:
    style = Style(norm="none", activation="relu", spatial_dims=2)
    pyramid = Pyramid((1, 1, 1), 1, ((2, 2), (2, 2)), fuse_coarsest=False, style=style)
    for module in pyramid.modules():
        if isinstance(module, nn.Conv2d):  # let all pass as it is
            nn.init.zeros_(module.weight)
            middle = module.weight.shape[-1] // 2
            nn.init.ones_(module.weight.data[..., middle, middle])
    features = [torch.full((1, 1, 4 // 2**n, 4 // 2**n), 10.0**n) for n in range(3)]
    finest, middle = pyramid(features)
    assert finest.unique().tolist() == [111.0]  # 1 + (10 + 100)
    assert middle.unique().tolist() == [231.0]  # 10 + (10 + 100) + 111


def test_the_coarsest_fusion_is_built_only_for_the_published_size() -> None:
    style = Style(spatial_dims=2)
    steps = ((2, 2),) * 4
    published = Pyramid((1,) * 5, 2, steps, fuse_coarsest=True, style=style)
    used = Pyramid((1,) * 5, 2, steps, fuse_coarsest=False, style=style)
    assert (len(published.up), len(used.up)) == (4, 3)
