"""The contract that every registered network meets, and one fingerprint per wiring."""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from medseg3d.networks import NETWORKS, build_network

IN_CHANNELS, OUT_CHANNELS = 2, 3
PATCH = (12, 8, 9)
ROOMY = (32, 32, 8)  # more than one voxel at the coarsest stage, so that norms pass gradients


class Row(NamedTuple):
    options: dict[str, Any]  # small enough for one core
    parameters: int
    fingerprint: float
    published: int  # parameters of paper()
    roomy: tuple[int, int, int] = ROOMY


SMALL = {"width": 3, "max_width": 8, "strides": ((1, 2, 2), (2, 2, 1))}
HALVED_FIVE_TIMES = (64, 64, 8)

ROWS = {
    "ahcnet": Row(SMALL, 9117, -1.0059190486218728, 24409601),
    "attention_unet": Row(
        {**SMALL, "width": 6, "max_width": 12}, 35924, -1.695210640234536, 34878573
    ),
    "bridged_unet": Row(SMALL, 20715, 1.1185094268377995, 18673153),
    "ce_net": Row({"width": 4}, 340044, 1.6628460693753304, 29003093, HALVED_FIVE_TIMES),
    "csa_unet": Row(SMALL, 16113, -0.65722008401425, 48229569),
    "fc_densenet": Row(
        {"growth": 3, "layers": 2, "stem": 4, "strides": ((1, 2, 2), (2, 2, 1))},
        15242,
        -404.06618162760606,
        9322091,
    ),
    "fcn": Row({"width": 3, "wide": 6}, 139800, 1.0800336158570252, 134489759, HALVED_FIVE_TIMES),
    "improved_attention_unet": Row(
        {"width": 3}, 144723, 41.47459830582609, 5671111, HALVED_FIVE_TIMES
    ),
    "laddernet": Row(SMALL, 16185, -193516.07369369396, 1381652),
    "mdu_net": Row(SMALL, 5165, 1.431230634947156, 17586562),
    "multiresunet": Row({**SMALL, "width": 4}, 10495, -84.76983775167898, 7244774),
    "partially_reversible_unet": Row(
        {"widths": (4, 8, 8), "strides": ((1, 2, 2), (2, 2, 1))},
        4419,
        -204.86336738179406,
        12365283,
    ),
    "r2_attention_unet": Row(SMALL, 10553, -72.41633138405305, 39442925),
    "r2unet": Row(SMALL, 10481, 111.56167266562377, 39091393),
    "ra_unet": Row({"width": 8}, 283779, -290.5884042551319, 4420849, HALVED_FIVE_TIMES),
    "raunet": Row({"width": 4}, 259613, -1.6509841738070725, 22143265, HALVED_FIVE_TIMES),
    "scleraseg_net": Row({"width": 4}, 276616, -42.77120411744465, 23626500, HALVED_FIVE_TIMES),
    "scse_unet": Row(
        {**SMALL, "width": 16, "max_width": 32}, 254568, -3.5913167627159828, 36278219
    ),
    "segnet": Row(
        {"width": 3, "strides": (2, (1, 2, 2), 1, (2, 2, 1), 1)},
        195438,
        17.295307017718308,
        29449355,
    ),
    "sunet": Row(SMALL, 9840, 1580.544473383419, 7032002),
    "unet": Row(SMALL, 8973, -1.488278863229276, 31030658),
    "unet3d_cicek": Row(SMALL, 28370, -40.41639744327468, 19075523),
    "unet3plus": Row(SMALL, 14583, -0.8510438970641672, 26989637),
    "unet_plus_plus": Row(SMALL, 10050, 0.6801329869515689, 9041700),
    "voxresnet": Row({"width": 3, "strides": (2, (1, 2, 2))}, 8079, -10.226157416278657, 1327296),
    "denseunet_2d": Row(
        {"stem": 6, "growth": 4, "layers": (2, 1, 1)}, 7_576, 6.860344804576, 49_527_843
    ),
    "denseunet_3d": Row(
        {"stem": 6, "growth": 4, "layers": (2, 1), "long_skips": True},
        15_987,
        -0.854294060070,
        15_977_467,
    ),
    "hdenseunet": Row(
        {"stem": 6, "growth": (4, 3), "layers": ((2, 1), (1, 2))},
        24_628,
        -2.003999693972,
        65_616_289,
    ),
    "unet3d": Row(
        {
            "width": 4,
            "max_width": 10,
            "strides": ((1, 2, 2), (2, 2, 2), (2, 1, 1)),
            "kernels": ((1, 3, 3), 3, 3, 3),
        },
        28_140,
        -6.845431498082,
        31_194_952,
    ),
    "vnet": Row(
        {"width": 4, "strides": ((2, 2, 1), (2, 2, 2)), "kernels": 3},
        42_851,
        479.903385639323,
        65_175_314,
    ),
}

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


def test_every_network_has_a_row() -> None:
    assert set(ROWS) == set(NETWORKS.names())


@each_network
def test_facts_name_the_paper(name: str) -> None:
    facts = NETWORKS.facts(name)
    assert set(facts) >= {"title", "year", "paper", "dims"}
    assert facts["paper"].startswith(("10.", "1", "2"))


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
    loss_of(network(image(ROWS[name].roomy))).backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


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
    loss_of(bare(image(ROWS[name].roomy))).backward()
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
