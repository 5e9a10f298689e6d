"""W-Net: what it makes small, how segments become labels, and that it needs no labels."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medseg3d.api.fitting.naming import best_names
from medseg3d.losses import LOSSES
from medseg3d.networks import build_network
from medseg3d.networks.blocks import Style
from medseg3d.networks.blocks.stages import Stages
from medseg3d.networks.cascade.wnet import GRAY_LEVELS, Half, WNet

FLAT = {"width": 4, "strides": (2, 2), "spatial_dims": 2}


def small(**options: object) -> WNet:
    torch.manual_seed(0)
    network = build_network("wnet", 1, 2, options={**FLAT, **options})
    assert isinstance(network, WNet)
    return network


def test_the_dividing_half_has_its_known_size() -> None:
    stages = Stages.of("wnet", 64, 1024, (2, 2, 2, 2), 2)
    style = Style(norm="batch", activation="relu", spatial_dims=2)
    with torch.device("meta"):
        half = Half(3, 4, stages, dropout=0.65, style=style)
    assert sum(each.numel() for each in half.parameters()) == 9_611_780


def test_only_the_finest_stage_has_plain_convolutions() -> None:
    half = small().encoder
    kinds = [
        [each.groups for each in pair if isinstance(each, nn.Conv2d)]
        for pair in (*half.encoder, *half.decoder)
    ]
    separable = [[4, 1, 8, 1], [8, 1, 16, 1], [16, 1, 8, 1]]
    assert kinds == [[1, 1], *separable, [1, 1]]


def test_labels_are_as_likely_as_their_segments_together() -> None:
    network = small(segments=4).eval()
    image = torch.randn(1, 1, 8, 8)
    segments = network.segment(image).softmax(1)
    network.name_segments([1, 0, 1, 1])
    found = network(image).exp()
    torch.testing.assert_close(found[:, 0], segments[:, 1])
    torch.testing.assert_close(found[:, 1], segments[:, [0, 2, 3]].sum(1))
    network.name_segments([0, 0, 0, 0])
    assert network(image).isfinite().all(), "a label without segments is unlikely, not impossible"
    assert not network(image).argmax(1).any()


def test_names_travel_with_the_weights() -> None:
    network, other = small(segments=3), small(segments=3)
    network.name_segments([1, 1, 0])
    other.load_state_dict(network.state_dict())
    assert other.names.tolist() == [1, 1, 0]


def test_the_objective_is_the_cut_in_gray_levels_plus_the_weighted_error() -> None:
    network = small(reconstruction=3.0).eval()
    image = torch.randn(2, 1, 9, 7)
    seen: list[tuple[Tensor, Tensor]] = []

    def cut(logits: Tensor, compared: Tensor) -> Tensor:
        seen.append((logits, compared))
        return torch.tensor(0.25)

    whole = network.objective(cut, image, torch.zeros(2, 1, 9, 7))
    [(logits, compared)] = seen
    torch.testing.assert_close(logits, network.segment(image))
    torch.testing.assert_close(compared, GRAY_LEVELS * image)
    padded = nn.functional.pad(image, (0, 1, 0, 3), mode="replicate")
    rebuilt = network.decoder(network.encoder(padded).softmax(1))[..., :9, :7]
    torch.testing.assert_close(whole, 0.25 + 3 * (rebuilt - image).square().mean())


def test_it_tells_a_square_from_its_surroundings_without_labels() -> None:
    image = torch.full((1, 1, 24, 24), -1.0)
    image[..., 6:17, 5:15] = 1.0
    square = image > 0
    image = image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    network = small(segments=4).train()
    loss = LOSSES.build("soft_normalized_cut")
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(120):
        optimizer.zero_grad()
        network.objective(loss, image, torch.zeros_like(square)).backward()
        optimizer.step()
    segments = network.eval().segment(image).argmax(1)
    pairs = np.array(
        [[int(((segments == k) & (square[:, 0] == v)).sum()) for v in (0, 1)] for k in range(4)]
    )
    network.name_segments(best_names(pairs))
    found = network(image).argmax(1) == 1
    overlap = 2 * (found & square[:, 0]).sum() / (found.sum() + square.sum())
    assert overlap > 0.9


@pytest.mark.parametrize("strides", [((1, 2, 2), (2, 2, 1)), (3,)])
def test_transposed_convolutions_undo_any_stride(strides: tuple[object, ...]) -> None:
    network = build_network("wnet", 1, 2, options={"width": 2, "strides": strides}).eval()
    assert network(torch.randn(1, 1, 7, 6, 5)).shape == (1, 2, 7, 6, 5)
