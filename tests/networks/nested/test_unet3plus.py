"""UNet 3+ guided by classes: what it learns beside the logits, and what it does to them."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.networks import build_network
from medseg3d.networks.nested.unet3plus import MARGIN, without_absent
from tests.networks.rows import ROWS

LABELS = 4
SIZE = (12, 8, 8)


def built(guided: bool) -> nn.Module:
    torch.manual_seed(0)
    options = ROWS["unet3plus"].options | {"class_guided": guided}
    return build_network("unet3plus", 1, LABELS, options=options)


def set_guide(network: nn.Module, absent: list[float], there: list[float]) -> None:
    """Let the guide say the same of every image."""
    nn.init.zeros_(network.guide.conv.weight)
    with torch.no_grad():
        network.guide.conv.bias.copy_(torch.tensor([*absent, *there]))


def test_labels_that_are_not_shown_are_found_nowhere() -> None:
    plain, network = built(False).eval(), built(True).eval()
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("guide") for name in missing)
    image = torch.randn(2, 1, *SIZE)
    set_guide(network, [1.0, -1.0, 2.0], [0.0, 0.0, 3.0])  # the first is absent
    found, before = network(image), plain(image)
    assert (before.argmax(1) == 1).any(), "or nothing is told"
    assert not (found.argmax(1) == 1).any()
    kept = [0, 2, 3]
    assert torch.equal(found[:, kept], before[:, kept])
    assert (found[:, 1] <= before[:, 0] - MARGIN).all()


def test_what_is_below_already_stays() -> None:
    logits = torch.tensor([1.0, -50.0, 8.0, 2.0]).reshape(1, 4, 1)
    found = without_absent(logits, torch.tensor([[True, True, False]]))
    assert found.flatten().tolist() == [1.0, -50.0, 1.0 - MARGIN, 2.0]


def test_the_guide_does_not_touch_logits_while_training() -> None:
    network = built(True).train()
    set_guide(network, [9.0] * 3, [0.0] * 3)
    image = torch.randn(1, 1, *SIZE)
    logits = network(image)
    assert len(logits) == 3
    again = built(True).train()(image)
    assert all(torch.equal(a, b) for a, b in zip(logits, again, strict=True))


def test_the_objective_adds_the_cross_entropy_of_presence_and_of_absence() -> None:
    network = built(True).eval()
    absent, there = [0.3, -1.0, 2.0], [0.1, 0.7, -0.4]
    set_guide(network, absent, there)
    image, labels = torch.randn(1, 1, *SIZE), torch.zeros(1, 1, *SIZE, dtype=torch.uint8)
    labels[..., :4, :, :] = 2
    shown = torch.tensor([0.0, 1.0, 0.0])

    def nothing(logits: Tensor, labels: Tensor) -> Tensor:
        return 0 * logits.sum()

    found = network.objective(nothing, image, labels)
    binary = functional.binary_cross_entropy_with_logits
    expected = binary(torch.tensor(there), shown) + binary(torch.tensor(absent), 1 - shown)
    torch.testing.assert_close(found, expected / 2)
    assert built(False).eval().objective(nothing, image, labels) == 0


def test_the_guide_learns_what_is_shown() -> None:
    network = built(True).train()
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(4, 1, *SIZE, dtype=torch.long)
    for case, label in enumerate((1, 2, 3, 0)):
        labels[case, :, 2:7, 2:7, 2:7] = label
    image = labels + 0.1 * torch.randn(4, 1, *SIZE, generator=generator)

    def loss(logits: list[Tensor], labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits[0], labels[:, 0])

    def cost() -> float:
        with torch.no_grad():
            found = network.eval().objective(lambda logits, _: 0 * logits.sum(), image, labels)
        network.train()
        return float(found)

    before = cost()
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        network.objective(loss, image, labels).backward()
        optimizer.step()
    assert cost() < 0.7 * before
