"""The model file: what is saved comes back, byte for byte the same, and fits its network."""

import json
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from medseg3d.bundle import (
    Bundle,
    inspect_bundle,
    load_bundle,
    load_network,
    load_weights,
    read_bundle,
    save_bundle,
)
from medseg3d.bundle.layout import LARGEST_MANIFEST
from medseg3d.data.plan import Normalization, Plan
from medseg3d.errors import ModelError
from medseg3d.networks import NETWORKS, build_network

PLAN = Plan(
    num_cases=3,
    labels={0: "background", 1: "liver"},
    channels=(Normalization(name="CT", scheme="ct", lower=-9, upper=99, mean=40, sd=20),),
    spacing=(1.0, 1.0, 2.5),
    coarse_axis=None,
    median_shape=(64, 64, 32),
    patch_size=(32, 32, 16),
    batch_size=2,
    strides=((2, 2, 2),),
    kernels=((3, 3, 3), (3, 3, 3)),
    width=2,
    max_width=320,
)
OPTIONS = {"width": 2, "strides": [2], "norm": "batch"}
DIGEST = "0123456789abcdef" * 4


def description(**changes: object) -> Bundle:
    values: dict[str, object] = {
        "network": "unet3d",
        "options": OPTIONS,
        "plan": PLAN,
        "channels": 1,
        "scores": {"liver": 0.9},
        "cases": {"P1 \u00e9": DIGEST},
    }
    return Bundle.model_validate(values | changes)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_network("unet3d", 1, 2, options=OPTIONS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "model.medseg3d", description(), network())
    return tmp_path / "model.medseg3d"


def test_what_is_saved_comes_back(path: Path) -> None:
    bundle, weights = load_bundle(path)
    assert bundle == description() == read_bundle(path)
    other = network(seed=1)
    load_weights(other, weights, source="here")
    for found in (other, load_network(path)):
        torch.testing.assert_close(found.state_dict(), network().state_dict(), rtol=0, atol=0)


def test_nothing_is_left_beside_the_file(path: Path) -> None:
    load_bundle(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["model.medseg3d"]


def test_equal_content_gives_equal_bytes(path: Path, tmp_path: Path) -> None:
    cases = {"b": DIGEST, "a": DIGEST}
    save_bundle(tmp_path / "one", description(cases=cases), network())
    save_bundle(tmp_path / "two", description(cases=dict(sorted(cases.items()))), network())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes() != path.read_bytes()


def test_any_zip_program_can_look_into_it(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.namelist() == ["manifest.json", "model.json", "weights.safetensors"]
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in file.infolist()} == {0o100644}
        assert json.loads(file.read("model.json"))["network"] == "unet3d"
        others = safetensors.torch.load(file.read("weights.safetensors"))
    torch.testing.assert_close(others, dict(network().state_dict()), rtol=0, atol=0)


def test_the_weights_are_the_bytes_that_the_safetensors_library_writes(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        ours = file.read("weights.safetensors")
    assert ours == safetensors.torch.save(dict(network().state_dict()), metadata={"format": "pt"})


def test_every_kind_of_weight_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kinds(nn.Module):
        """A weight of every kind: shared, scalar, empty, turned, and of each dtype."""

        def __init__(self, channels: int, labels: int) -> None:
            super().__init__()
            self.first = nn.Linear(channels, labels)
            self.second = self.first
            self.register_buffer("steps", torch.tensor(7))
            self.register_buffer("empty", torch.zeros(0, 3))
            self.register_buffer("turned", torch.arange(6.0).view(2, 3).t())
            self.register_buffer("flags", torch.tensor([True, False, True]))
            for dtype in ("float64", "float16", "bfloat16", "int32", "int16", "int8", "uint8"):
                self.register_buffer(f"of_{dtype}", torch.arange(3).to(getattr(torch, dtype)))

    monkeypatch.setitem(NETWORKS._parts, "kinds", Kinds)
    torch.manual_seed(0)
    kinds = Kinds(1, 2)
    save_bundle(tmp_path / "x.medseg3d", description(network="kinds", options={}), kinds)
    weights = load_bundle(tmp_path / "x.medseg3d")[1]
    assert weights.keys() == kinds.state_dict().keys()
    for name, expected in kinds.state_dict().items():
        torch.testing.assert_close(weights[name], expected, rtol=0, atol=0, msg=name)
    load_weights(Kinds(1, 2), weights, source="here")


def test_loaded_weights_may_be_changed_and_the_file_stays(path: Path) -> None:
    before = path.read_bytes()
    weights = load_bundle(path)[1]
    for values in weights.values():
        values.zero_()
    assert path.read_bytes() == before


def test_the_weights_lie_in_memory_once(path: Path) -> None:
    weights = load_bundle(path)[1]
    assert len({values.untyped_storage().data_ptr() for values in weights.values()}) > 1
    starts = sorted(values.data_ptr() for values in weights.values())
    total = sum(values.nbytes for values in weights.values())
    assert starts[-1] - starts[0] < total, "one block"
    assert all(values.data_ptr() % values.itemsize == 0 for values in weights.values())


def test_finite_weights_whose_sum_is_infinite_are_fine(tmp_path: Path) -> None:
    large = network()
    with torch.no_grad():
        next(large.parameters()).fill_(3e38)
    save_bundle(tmp_path / "x.medseg3d", description(), large)
    assert load_bundle(tmp_path / "x.medseg3d")[0] == description()


def test_a_look_inside_counts_and_hashes(path: Path) -> None:
    import hashlib

    contents = inspect_bundle(path)
    state = network().state_dict()
    assert contents.bundle == description()
    assert contents.num_weights == len(state)
    assert contents.num_parameters == sum(
        v.numel() for v in state.values() if v.is_floating_point()
    )
    assert contents.size == path.stat().st_size
    assert contents.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_old_descriptions_without_cases_are_read(path: Path) -> None:
    assert Bundle.model_validate(description().model_dump(exclude={"cases"})).cases == {}


def test_a_bundle_of_other_channels_than_its_plan_is_no_bundle() -> None:
    with pytest.raises(ValueError, match="channels is 2, but the plan has 1"):
        description(channels=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"width": 2.0**21}}, "an option of"),
        ({"training": {"x": object()}}, "cannot be written as JSON"),
        ({"cases": {"a": "not a digest"}}, "no digest for case a"),
        ({"training": {"losses": list(range(30_000))}}, "more than 20000 entries"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        save_bundle(tmp_path / "x.medseg3d", description(**changes), network())
    assert not list(tmp_path.iterdir())


def test_weights_that_cannot_be_stored_are_named(tmp_path: Path) -> None:
    odd = nn.Module()
    odd.register_buffer("waves", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(ModelError, match="weight waves has dtype complex64"):
        save_bundle(tmp_path / "x.medseg3d", description(), odd)


def test_more_than_a_zip_holds_is_refused_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg3d.bundle.archive.LARGEST", LARGEST_MANIFEST + 10_000)
    with pytest.raises(ModelError, match="more than the 14096 that a bundle holds"):
        save_bundle(tmp_path / "x.medseg3d", description(), network())


def test_weights_of_another_network_are_refused_with_three_names(path: Path) -> None:
    _, weights = load_bundle(path)
    other = build_network("unet3d", 1, 3, options=OPTIONS)
    with pytest.raises(ModelError) as caught:
        load_weights(other, weights, source=str(path))
    assert str(caught.value).startswith(f"{path}: 2 weights do not fit the network it names: ")
    assert "(network float32 (3,), file float32 (2,))" in str(caught.value)
