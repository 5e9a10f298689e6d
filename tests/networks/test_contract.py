"""The contract that every registered network meets, and one fingerprint per wiring."""

import copy
import inspect
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg3d.losses import LOSSES
from medseg3d.losses.deep_supervision import DeepSupervision
from medseg3d.networks import NETWORKS, build_network
from tests.networks.rows import ROWS

IN_CHANNELS, OUT_CHANNELS = 2, 3
PATCH = (12, 8, 9)
SAMPLES = Path(__file__).parents[2] / "sample_data"
STEP = 0.001
"""Length of a step in the space of all weights."""


each_network = pytest.mark.parametrize("name", ROWS)


def build(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_network(name, IN_CHANNELS, OUT_CHANNELS, options={**ROWS[name].options, **options})


def waves(shape: Sequence[int], phase: float) -> Tensor:
    """Distinct values from a formula, so that goldens outlive any random generator."""
    steps = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (0.7 * steps + phase).sin().view(*shape)


def image(size: Sequence[int] = PATCH) -> Tensor:
    return waves((2, IN_CHANNELS, *size), phase=0.5).float()


def listed(logits: Tensor | list[Tensor]) -> list[Tensor]:
    return logits if isinstance(logits, list) else [logits]


def loss_of(logits: Tensor | list[Tensor]) -> Tensor:
    """Uneven weights per voxel, so that no symmetry hides a parameter."""
    return sum(((scale.float() - waves(scale.shape, 1.0)) ** 2).mean() for scale in listed(logits))


def whole_losses(network: nn.Module, size: Sequence[int]) -> Iterator[Tensor]:
    """What training makes small: of the logits, or as the network wants it in each stage."""
    if not hasattr(network, "objective"):
        yield loss_of(network(image(size)))
        return
    more = {"target": 0.5 * image(size).flip(2)} if hasattr(network, "translate") else {}
    labels = (waves((2, 1, *size), 0.3) > 0).long() + (waves((2, 1, *size), 0.9) > 0.9)
    for stage in getattr(network, "default_stages", {None: 1}):
        if stage is not None:
            network.set_stage(stage)
        yield network.objective(lambda logits, _: loss_of(logits), image(size), labels, **more)


@cache
def demo_volume() -> tuple[Tensor, Tensor]:
    """Normalized intensities and labels of a case of the sample data, ``(I, J, K)``."""
    values, labels = (
        torch.from_numpy(np.asarray(nib.load(SAMPLES / kind).dataobj).astype(np.float32))
        for kind in ("imagesTr/abdomen_01_0000.nii.gz", "labelsTr/abdomen_01.nii.gz")
    )
    return (values - values.mean()) / values.std(), labels.long()


def demo_patches(size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Two patches of the case, the first around its second label."""
    values, labels = demo_volume()
    assert int(labels.max()) == OUT_CHANNELS - 1
    middle = (labels == OUT_CHANNELS - 1).nonzero().float().mean(0).round().int().tolist()
    images, truths = [], []
    for move in (0, 5):
        boxes = []
        for center, edge, length in zip(middle, size, labels.shape, strict=True):
            start = min(max(0, center - edge // 2 + move), max(0, length - edge))
            boxes.append(slice(start, start + edge))
        missing = [n for box, n in zip(boxes[::-1], size[::-1], strict=True) for n in (0, n)]
        part, truth = (
            functional.pad(each[tuple(boxes)], missing)[: size[0], : size[1], : size[2]]
            for each in (values, labels)
        )
        images.append(torch.stack([part, part.square()]))
        truths.append(truth[None])
    return torch.stack(images), torch.stack(truths)


def test_every_network_has_a_row() -> None:
    assert set(ROWS) == set(NETWORKS.names())


@each_network
def test_facts_name_the_paper(name: str) -> None:
    facts = NETWORKS.facts(name)
    assert set(facts) >= {"title", "year", "paper", "dims"}
    assert facts["paper"].startswith(("10.", "1", "2"))
    assert facts["parameters"] == ROWS[name].published
    more = "deep_supervision" in inspect.signature(NETWORKS[name]).parameters
    assert ("outputs" in facts) == (more or hasattr(NETWORKS[name], "objective"))


@each_network
def test_published_size_is_reproduced(name: str) -> None:
    with torch.device("meta"):
        network = NETWORKS[name].paper()
    assert sum(p.numel() for p in network.parameters()) == ROWS[name].published


@each_network
@pytest.mark.parametrize("size", [PATCH, (16, 16, 16), (7, 5, 3), (1, 1, 1)])
def test_logits_cover_an_image_of_any_size(name: str, size: tuple[int, int, int]) -> None:
    network = build(name)
    logits = network.eval()(image(size))
    assert logits.shape == (2, OUT_CHANNELS, *size)
    assert logits.isfinite().all()
    loss = loss_of(network.train()(image(size)))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@each_network
def test_divisible_images_are_not_padded(name: str) -> None:
    network = build(name).eval()
    assert len(network.divisor) == 3
    seen: list[torch.Size] = []
    first = next(m for m in network.modules() if isinstance(m, nn.Conv3d | nn.Conv2d))
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    network(image(network.divisor))
    assert seen[0].numel() // seen[0][1] == 2 * torch.Size(network.divisor).numel()


@each_network
def test_every_parameter_learns(name: str) -> None:
    network = build(name).train()
    for parameter_name, parameter in network.named_parameters():
        if parameter_name.endswith("share"):  # begins at 0, where what it weighs cannot learn yet
            nn.init.constant_(parameter, 0.5)
    for loss in whole_losses(network, ROWS[name].roomy):
        loss.backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


@each_network
def test_one_step_on_the_demo_data_lowers_the_loss(name: str) -> None:
    network = build(name).train()
    loss = DeepSupervision(LOSSES.build(getattr(NETWORKS[name], "unsupervised", "dice_ce")))
    seen, labels = demo_patches(ROWS[name].roomy)
    more = {"target": seen.flip(2)} if hasattr(network, "translate") else {}

    def found(each: nn.Module) -> Tensor:
        torch.manual_seed(0)  # the same dropout and draws each time
        own = getattr(each, "objective", None)
        return own(loss, seen, labels, **more) if own else loss(each(seen), labels)

    twin = copy.deepcopy(network)  # a step may change more than its weights, such as means
    before = found(twin)
    before.backward()
    slopes = [p.grad if p.grad is not None else torch.zeros_like(p) for p in twin.parameters()]
    length = torch.stack([slope.norm() for slope in slopes]).norm()
    with torch.no_grad():
        for parameter, slope in zip(network.parameters(), slopes, strict=True):
            parameter.sub_(STEP * slope / length)
    assert float(found(network).detach()) < float(before.detach())


@each_network
def test_deep_supervision_returns_a_list_only_while_training(name: str) -> None:
    if "deep_supervision" not in inspect.signature(NETWORKS[name]).parameters:
        assert isinstance(build(name).train()(image()), Tensor)
        return
    network = build(name, deep_supervision=True)
    sizes = [logits.shape[2:] for logits in network.train()(image())]
    assert len(sizes) > 1
    assert sizes[0] == PATCH
    assert sizes == sorted(sizes, reverse=True)
    assert network.eval()(image()).shape[2:] == PATCH
    bare = build(name, deep_supervision=False).train()
    assert bare(image()).shape[2:] == PATCH
    for loss in whole_losses(bare, ROWS[name].roomy):
        loss.backward()
    assert all(p.grad is not None for p in bare.parameters())


@each_network
def test_cases_of_a_batch_do_not_mix(name: str) -> None:
    network, batch = build(name).eval().double(), image().double()
    alone = torch.cat([network(case[None]) for case in batch])
    torch.testing.assert_close(network(batch), alone)


@each_network
def test_evaluation_repeats_itself(name: str) -> None:
    network = build(name).eval()
    assert torch.equal(network(image()), network(image()))


@each_network
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_half_precision_stays_finite(name: str, norm: str) -> None:
    chooses = "norm" in inspect.signature(NETWORKS[name]).parameters
    network = build(name, **({"norm": norm} if chooses else {})).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(1000 * image())
    loss_of(logits).backward()
    assert all(scale.isfinite().all() for scale in listed(logits))
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@each_network
def test_weights_travel_to_a_fresh_network(name: str) -> None:
    network, twin = build(name).eval(), build(name)
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    twin.load_state_dict(network.train().state_dict())
    assert torch.equal(network.eval()(image()), twin.eval()(image()))


@each_network
def test_export_gives_the_same_logits(name: str) -> None:
    network = build(name).eval()
    exported = torch.export.export(network, (image(),)).module()
    torch.testing.assert_close(exported(image()), network(image()))


@each_network
def test_wiring_matches_its_fingerprint(name: str) -> None:
    network = build(name).eval().double()
    with torch.no_grad():
        for place, parameter in enumerate(network.parameters()):
            parameter.copy_(0.3 * waves(parameter.shape, phase=place))
        logits = network(image(ROWS[name].roomy).double())
    fingerprint = (logits * waves(logits.shape, phase=0.0)).sum().item()
    found = (sum(p.numel() for p in network.parameters()), fingerprint)
    assert found == (ROWS[name].parameters, pytest.approx(ROWS[name].fingerprint, rel=1e-6))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("u_det", {"fuse_coarsest": True}),
        ("hierarchical_probabilistic_unet", {"whole_posterior": True}),
    ],
)
def test_weights_that_only_the_published_network_has_may_idle(
    name: str, options: dict[str, bool]
) -> None:
    network = build_network(name, 1, 2, options=ROWS[name].options | options).train()
    own = getattr(network, "objective", None)
    image, labels = torch.randn(2, 1, 8, 8, 8), torch.randint(0, 2, (2, 1, 8, 8, 8))
    loss = network(image).sum() if own is None else own(None, image, labels)
    loss.backward()
    assert any(each.grad is None for each in network.parameters())
    assert network.may_idle
