"""The model file: round trip, and every way in which it can be wrong."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medseg3d.bundle import (
    METADATA_KEY,
    Bundle,
    load_bundle,
    load_weights,
    read_bundle,
    save_bundle,
)
from medseg3d.data.plan import Normalization, Plan
from medseg3d.errors import ModelError

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
    width=8,
    max_width=320,
)


class Shared(nn.Module):
    """Two names for one weight, which plain safetensors refuses."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(2, width)
        self.second = self.first
        self.register_buffer("steps", torch.tensor(7))


def description() -> Bundle:
    return Bundle(
        network="unet3d", options={"width": 8}, plan=PLAN, channels=1, scores={"liver": 0.9}
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_bundle(tmp_path / "model.medseg3d", description(), Shared())
    return tmp_path / "model.medseg3d"


def test_what_is_saved_comes_back(path: Path) -> None:
    bundle, weights = load_bundle(path)
    assert bundle == description() == read_bundle(path)
    torch.manual_seed(1)
    network = Shared()
    load_weights(network, weights, source="here")
    torch.manual_seed(0)
    torch.testing.assert_close(network.state_dict(), Shared().state_dict(), rtol=0, atol=0)


def test_nothing_is_left_beside_the_file(path: Path) -> None:
    assert [entry.name for entry in path.parent.iterdir()] == ["model.medseg3d"]


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="truncated"):
        load_bundle(path)


def test_one_changed_bit_in_the_weights_is_noticed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ModelError, match="SHA-256"):
        load_bundle(path)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "run",))

    (tmp_path / "model.medseg3d").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="not a readable"):
        load_bundle(tmp_path / "model.medseg3d")
    assert not (tmp_path / "run").exists()


def test_safetensors_of_someone_else_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="without a medseg3d description"):
        load_bundle(tmp_path / "other.safetensors")


def test_a_description_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    text = json.dumps(description().model_dump(mode="json") | {"sha256": "", "plans": 1})
    save_file({"a": torch.zeros(1)}, tmp_path / "x.medseg3d", metadata={METADATA_KEY: text})
    with pytest.raises(ModelError, match="unknown key 'plans'; did you mean plan"):
        read_bundle(tmp_path / "x.medseg3d")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.medseg3d: no such model file"):
        read_bundle(tmp_path / "none.medseg3d")


def test_weights_of_another_network_are_refused_with_three_names(path: Path) -> None:
    _, weights = load_bundle(path)
    with pytest.raises(ModelError, match=r"4 weights do not fit .*first\.bias \(network \(5,\)"):
        load_weights(Shared(5), weights, source=str(path))
