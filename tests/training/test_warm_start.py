"""Weights of another model, by name: labels and channels that are known, new or gone."""

import pytest
import torch
from torch import Tensor, nn

from medseg3d.errors import ConfigError
from medseg3d.networks import build_network
from medseg3d.training.warm_start import Build, Ends, Taken, take_weights

SMALL = {"width": 4, "max_width": 8, "strides": [2, 2, 2], "norm": "batch"}


def unet(channels: int, labels: int, _: int = 0) -> nn.Module:
    return build_network("unet3d", channels, labels, options=SMALL)


class Mixed(nn.Module):
    """One weight that follows channels and labels together, one that has twice the labels."""

    def __init__(self, channels: int, labels: int, _: int = 0) -> None:
        super().__init__()
        self.body = nn.Conv3d(2, 2, 1)
        self.both = nn.Conv3d(channels + labels, 2, 1)
        self.twice = nn.Conv3d(2, 2 * labels, 1, bias=False)


def vnet(channels: int, labels: int, _: int = 0) -> nn.Module:
    return build_network("vnet", channels, labels, options={"width": 4, "strides": (2, 2)})


def ynet(channels: int, labels: int, classes: int = 0) -> nn.Module:
    options = {"width": 2, "strides": (2, 2)} | ({"classes": classes} if classes else {})
    return build_network("ynet_3d", channels, labels, options=options)


def ends(channels: str, labels: str, classes: str = "") -> Ends:
    return Ends(tuple(channels.split()), ("background", *labels.split()), tuple(classes.split()))


def begun(was: Ends, now: Ends, build: Build = unet) -> tuple[nn.Module, nn.Module, Taken]:
    """The model, the network that begins with it, and what was taken."""
    torch.manual_seed(0)
    model = build(len(was.channels), len(was.labels), len(was.classes))
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():  # running means are 0 in any new network
            tensor.add_(torch.rand(tensor.shape) / 10)
    network = build(len(now.channels), len(now.labels), len(now.classes))
    taken = take_weights(network, model.state_dict(), was=was, now=now, build=build)
    return model.eval().double(), network.eval().double(), taken


def test_the_same_labels_and_channels_take_everything() -> None:
    ct = ends("CT", "liver tumor")
    model, network, taken = begun(ct, ct)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert set(taken.whole) == set(network.state_dict())
    assert (taken.in_part, taken.anew, taken.new_labels, taken.lost_channels) == ((),) * 4


def test_labels_in_another_order_keep_their_logits() -> None:
    model, network, taken = begun(ends("CT", "a b c"), ends("CT", "c a b"))
    image = torch.randn(1, 1, 9, 8, 10, dtype=torch.float64)
    torch.testing.assert_close(network(image), model(image)[:, [0, 3, 1, 2]])
    assert taken.labels == ("background", "c", "a", "b")
    assert not taken.anew
    assert taken.in_part
    assert all("head" in name for name in taken.in_part)


def test_a_background_of_another_name_is_the_background() -> None:
    model, network, taken = begun(ends("CT", "a"), Ends(("CT",), ("nothing", "a")))
    image = torch.randn(1, 1, 8, 8, 8, dtype=torch.float64)
    assert torch.equal(network(image), model(image))
    assert taken.new_labels == taken.lost_labels == ()


def test_new_labels_and_channels_leave_the_known_logits_as_they_were() -> None:
    was, now = ends("T1 T2", "liver spleen"), ends("FLAIR T2 T1", "tumor spleen")
    model, network, taken = begun(was, now)
    image = torch.randn(2, 3, 8, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        found, before = network(image), model(image[:, [2, 1]])
    torch.testing.assert_close(found[:, [0, 2]], before[:, [0, 2]])
    assert not torch.equal(found[:, 1], before[:, 1]), "tumor is not liver"
    assert taken.new_labels == ("tumor",)
    assert taken.lost_labels == ("liver",)
    assert taken.channels == ("T2", "T1")
    assert taken.new_channels == ("FLAIR",)
    text = str(taken)
    assert "new labels: tumor; labels left behind: liver; new channels: FLAIR" in text


def test_new_weights_learn() -> None:
    _, network, _ = begun(ends("T1", "liver"), ends("T1 T2", "liver tumor"))
    loss = network.train()(torch.randn(2, 2, 16, 16, 16, dtype=torch.float64))[0].square().mean()
    loss.backward()
    first = next(p for p in network.parameters() if p.ndim == 5)
    assert first[:, 1].abs().max() == 0, "the new channel begins at 0"
    assert first.grad[:, 1].abs().max() > 0


def test_nothing_in_common_but_the_body() -> None:
    model, network, taken = begun(ends("CT", "a"), ends("MR", "b"))
    own, theirs = network.state_dict(), model.state_dict()
    first = next(name for name, tensor in own.items() if tensor.ndim == 5)
    assert first in taken.in_part
    assert own[first].abs().max() > 0, "a network that sees nothing would not learn"
    assert not torch.equal(own[first], theirs[first])
    assert taken.lost_channels == ("CT",)
    assert all(torch.equal(own[name], theirs[name]) for name in taken.whole)


def test_weights_that_mix_labels_and_channels_are_taken_only_if_both_are_the_same() -> None:
    ct = ends("CT", "a b")
    assert begun(ct, ct, Mixed)[2].anew == ()
    model, network, taken = begun(ct, ends("CT", "b a"), Mixed)
    assert set(taken.anew) == {"both.weight", "twice.weight"}
    assert not torch.equal(network.both.weight, model.both.weight)
    assert torch.equal(network.both.bias, model.both.bias)
    _, _, more = begun(ct, ends("CT PET", "a b"), Mixed)
    assert more.anew == ("both.weight",)


@pytest.mark.parametrize(("was", "now"), [("a b c", "a"), ("a b c", "a b d c"), ("a", "a b c")])
def test_weights_that_only_some_numbers_of_channels_need_are_left_or_begun_anew(
    was: str, now: str
) -> None:
    """V-Net repeats its input where the width is a multiple of the channels, else it convolves."""
    model, network, taken = begun(ends(was, "x"), ends(now, "x"), vnet)
    old, new = model.state_dict(), network.state_dict()
    assert set(taken.anew) == new.keys() - old.keys()
    assert (old.keys() != new.keys()) == (len(was.split()) == 3 or len(now.split()) == 3)
    assert taken.whole
    assert all(torch.equal(new[name], old[name]) for name in taken.whole)


def test_classes_are_known_by_name() -> None:
    model, network, taken = begun(
        ends("CT", "a b", "healthy ill"), ends("CT", "a b", "ill dead healthy"), ynet
    )
    assert (taken.classes, taken.new_classes) == (("ill", "healthy"), ("dead",))
    old, new = model.state_dict(), network.state_dict()
    heads = [name for name in new if new[name].shape[:1] != old[name].shape[:1]]
    assert sorted(taken.in_part) == sorted(heads)
    assert heads
    for name in heads:
        assert torch.equal(new[name][[2, 0]], old[name])
    assert "new classes: dead" in str(taken)


@pytest.mark.parametrize(("was", "now"), [("", "p q r"), ("p q r", ""), ("p q", "")])
def test_the_head_of_classes_begins_anew_where_labels_took_its_place(was: str, now: str) -> None:
    _, _, taken = begun(ends("CT", "a b", was), ends("CT", "a b", now), ynet)
    if len(was.split()) == 2:  # as many as labels: which is which cannot be told
        assert not taken.in_part
    else:
        assert taken.anew
        assert all(name.startswith("classifier") for name in taken.anew)


@pytest.mark.parametrize(
    "other",
    [
        {"width": 6, "max_width": 8, "strides": [2, 2, 2], "norm": "batch"},
        {"width": 4, "max_width": 8, "strides": [2, 2], "norm": "batch"},
        {"width": 4, "max_width": 8, "strides": [2, 2, 2], "norm": "none"},
    ],
)
def test_another_network_is_refused_and_nothing_changed(other: dict[str, object]) -> None:
    weights: dict[str, Tensor] = build_network("unet3d", 1, 2, options=other).state_dict()
    network = unet(1, 3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ConfigError, match=r"\d+ weights of the model .* are of another network"):
        take_weights(network, weights, was=ends("CT", "a"), now=ends("CT", "a b"), build=unet)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
