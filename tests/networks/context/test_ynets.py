"""Y-Nets: what their objective is made of, and that both of their branches learn from it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.networks import NETWORKS, build_network
from medseg3d.networks.blocks.classes import presence_loss
from medseg3d.networks.blocks.esp import DilatedPyramid, PooledPyramid
from medseg3d.networks.blocks.style import Style
from tests.networks.rows import ROWS

LABELS = 3
SIZE = (32, 32, 16)
each = pytest.mark.parametrize("name", ["ynet_2d", "ynet_3d"])


def built(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_network(name, 1, LABELS, options=ROWS[name].options | options)


def of_labels(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels[:, 0].long(), ignore_index=LABELS)


@each
def test_the_objective_adds_what_is_shown_to_the_loss_that_was_chosen(name: str) -> None:
    network = built(name).eval()  # without dropout
    image, labels = torch.randn(2, 1, *SIZE), torch.randint(0, 2, (2, 1, *SIZE))
    whole = network.objective(of_labels, image, labels)
    assert network.classify(image).shape == (2, LABELS - 1)
    expected = of_labels(network(image), labels)
    expected = expected + presence_loss(network.classify(image), labels)
    torch.testing.assert_close(whole, expected)


@each
def test_images_without_a_mask_teach_their_class_only(name: str) -> None:
    network = built(name, classes=4).eval()
    image, classes = torch.randn(2, 1, *SIZE), torch.tensor([3, 1])
    labels = torch.full((2, 1, *SIZE), LABELS, dtype=torch.uint8)
    whole = network.objective(of_labels, image, labels, classes)
    torch.testing.assert_close(whole, functional.cross_entropy(network.classify(image), classes))
    whole.backward()
    learning = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert {n for n in learning if n.startswith(("classifier", "encoder", "third"))}
    assert not {n for n in learning if n.startswith(("head", "decoder", "fine"))}
    labels[0] = 1  # a mask for one of them
    both = network.objective(of_labels, image, labels, classes)
    alone = of_labels(network(image[:1]), labels[:1])
    torch.testing.assert_close(both - whole, alone)


@each
def test_a_few_steps_tell_bright_from_dark_without_any_mask(name: str) -> None:
    planned = {"pooled": 2} if name == "ynet_3d" else {}
    network = built(name, classes=2, **planned).train()
    size = (16, 16, 16)
    image = torch.randn(4, 1, *size, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([0, 1, 1, 0])
    image[classes == 1, :, :5, :5, :5] += 6.0
    labels = torch.full((4, 1, *size), LABELS, dtype=torch.uint8)
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    for _ in range(20):
        optimizer.zero_grad()
        network.objective(of_labels, image, labels, classes).backward()
        optimizer.step()
    assert functional.cross_entropy(network.eval().classify(image), classes) < 0.3


def test_the_published_classifier_takes_images_of_any_size() -> None:
    network = built("ynet_3d", pooled=(4, 2, 2)).eval()
    assert network.classify(torch.randn(1, 1, 16, 9, 5)).shape == (1, LABELS - 1)
    with torch.device("meta"):
        paper = NETWORKS["ynet_3d"].paper()
        assert paper.classify(torch.empty(1, 2, 256, 256, 32)).shape == (1, 1)


def test_wider_dilations_are_added_to_narrower_ones() -> None:
    block = DilatedPyramid(8, style=Style(norm="none", activation="relu", spatial_dims=2))
    x = torch.randn(1, 8, 9, 9)
    few = block.squeeze(x)
    d1, d2, d4, d8 = (conv(few) for conv in block.dilated)
    assert [conv.dilation[0] for conv in block.dilated] == [1, 2, 4, 8]
    expected = (x + torch.cat([d1, d2, d2 + d4, d2 + d4 + d8], 1)).relu()
    torch.testing.assert_close(block(x), expected)


def test_pooled_features_stand_beside_the_input() -> None:
    style = Style(norm="none", activation="relu", spatial_dims=2)
    block = PooledPyramid(2, 3, shares=((1, 2),), style=style)
    x = torch.randn(1, 2, 4, 6)
    coarse = block.convs[0](functional.avg_pool2d(x, 2))
    seen = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(block(x), torch.cat([x, seen], 1))
