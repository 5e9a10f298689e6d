"""VoxResNet: its side losses, and how their weight falls while it is trained."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg3d.networks import build_network
from tests.networks.rows import ROWS


@pytest.mark.parametrize(("used", "weight"), [(0.0, 1.0), (0.5, 0.1), (1.0, 0.01), (1.2, 0.01)])
def test_the_sides_weigh_less_and_less(used: float, weight: float) -> None:
    torch.manual_seed(0)
    network = build_network("voxresnet", 1, 3, options=ROWS["voxresnet"].options).train()
    image, labels = torch.randn(2, 1, 8, 8, 8), torch.randint(0, 3, (2, 1, 8, 8, 8))

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels[:, 0])

    network.set_progress(used)
    total, *sides = network(image)
    torch.testing.assert_close(total, sum(sides))
    expected = loss(total, labels) + weight * sum(loss(side, labels) for side in sides)
    torch.testing.assert_close(network.objective(loss, image, labels), expected)
    alone = network.eval()
    torch.testing.assert_close(alone.objective(loss, image, labels), loss(alone(image), labels))
