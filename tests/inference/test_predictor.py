"""A model on whole cases: mirrored copies only as trained, awkward shapes, memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medseg3d.bundle import Bundle, save_bundle
from medseg3d.data.canonical import CanonicalCase, canonical
from medseg3d.data.plan import Normalization, Plan
from medseg3d.errors import ConfigError
from medseg3d.geometry.grid import Grid
from medseg3d.inference.backends import Eager
from medseg3d.inference.backends.conversion import taken
from medseg3d.inference.predictor import Predictor
from medseg3d.io import Volume
from medseg3d.networks import build_network

CPU = torch.device("cpu")
OPTIONS = {"width": 4, "strides": ((2, 2, 2),), "kernels": ((3, 3, 3),) * 2}


def plan(**changes: object) -> Plan:
    facts: dict[str, object] = {
        "num_cases": 1,
        "labels": {0: "background", 4: "lung_right", 9: "lung_left", 300: "heart"},
        "channels": (Normalization(name="CT", scheme="ct", lower=-1e4, upper=1e4, mean=0, sd=1),),
        "spacing": (1.0, 1.0, 1.0),
        "coarse_axis": None,
        "median_shape": (8, 8, 8),
        "patch_size": (16, 16, 8),
        "batch_size": 2,
        "strides": ((2, 2, 2),),
        "kernels": ((3, 3, 3),) * 2,
        "width": 4,
        "max_width": 320,
    }
    return Plan(**(facts | changes))


MIRRORED = plan(mirror_axes=(0, 1, 2), swapped_labels={9: 4})


class SeesSides(nn.Module):
    """Bright voxels of a slope to the right are the right lung, of one to the left the left."""

    def forward(self, x: Tensor) -> Tensor:
        rising = torch.roll(x, -1, 2) - torch.roll(x, 1, 2)
        return torch.cat([0.1 + 0 * x, rising, -rising, x - 3], dim=1)


def predictor(of: Plan, network: nn.Module, *, mirror: bool) -> Predictor:
    bundle = Bundle(network="unet3d", options=OPTIONS, plan=of, channels=1)
    ready = Eager(network.eval(), device=CPU, precision="fp32")
    return Predictor(bundle, ready, device=CPU, overlap=0.5, mirror=mirror)


def case(image: np.ndarray, affine: np.ndarray | None = None) -> CanonicalCase:
    grid = Grid(image.shape, np.eye(4) if affine is None else affine)  # type: ignore[arg-type]
    return canonical(Volume(image[None].astype(np.float32), grid, path=None))  # type: ignore[arg-type]


def wave(shape: tuple[int, int, int] = (16, 16, 8)) -> np.ndarray:
    i, j, _ = np.indices(shape)
    return np.asarray(np.sin(2 * np.pi * (i + 0.3) / shape[0]) + 0.01 * j)


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])])
def test_mirrored_copies_agree_where_the_network_knows_left_from_right(affine: np.ndarray) -> None:
    image = case(wave(), affine)
    plain = predictor(MIRRORED, SeesSides(), mirror=False).segment(image)
    mirrored = predictor(MIRRORED, SeesSides(), mirror=True).segment(image)
    assert set(np.unique(mirrored)) == {0, 4, 9}
    np.testing.assert_array_equal(mirrored, plain)


def test_pairs_that_the_plan_does_not_know_cancel_out() -> None:
    unpaired = plan(mirror_axes=(0,))
    labels = predictor(unpaired, SeesSides(), mirror=True).segment(case(wave()))
    assert not np.isin(labels, (4, 9)).any()


def test_only_the_axes_of_the_training_are_mirrored() -> None:
    assert predictor(plan(mirror_axes=(2,)), SeesSides(), mirror=True).mirror_axes == (2,)
    assert predictor(MIRRORED, SeesSides(), mirror=False).mirror_axes == ()


def test_a_model_trained_without_mirroring_refuses_it(tmp_path: Path) -> None:
    path = tmp_path / "model.medseg3d"
    network = build_network("unet3d", 1, 4, options=OPTIONS)
    save_bundle(path, Bundle(network="unet3d", options=OPTIONS, plan=plan(), channels=1), network)
    Predictor.open(path, device=CPU, overlap=0.5, precision="fp32")
    with pytest.raises(ConfigError, match=r"trained without mirroring.*leave out --mirror"):
        Predictor.open(path, device=CPU, overlap=0.5, precision="fp32", mirror=True)


@pytest.mark.parametrize("shape", [(5, 6, 7), (40, 44, 1), (3000, 3, 3), (1, 200, 2)])
@pytest.mark.parametrize("mirror", [False, True])
def test_awkward_shapes_come_back_as_they_were(shape: tuple[int, int, int], mirror: bool) -> None:
    network = build_network("unet3d", 1, 4, options=OPTIONS)
    image = np.random.default_rng(0).normal(size=shape)
    of = MIRRORED.model_copy(update={"mirror_axes": (0, 2)})
    found = predictor(of, network, mirror=mirror).segment(case(image))
    assert found.shape == shape
    assert np.isin(found, list(of.labels)).all()


def test_values_beyond_eight_bits_are_written_whole() -> None:
    class AllHeart(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([-x.abs(), x * 0 - 9, x * 0 - 9, x.abs() + 1], dim=1)

    labels = predictor(plan(), AllHeart(), mirror=False).segment(case(wave()))
    assert labels.dtype == np.uint16
    assert (labels == 300).all()


def test_several_models_are_averaged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    paths, logits = [], []
    batch = np.random.default_rng(0).normal(size=(1, 1, 16, 16, 8)).astype(np.float32)
    for number in range(3):
        network = build_network("unet3d", 1, 4, options=OPTIONS)
        bundle = Bundle(network="unet3d", options=OPTIONS, plan=plan(), channels=1)
        paths.append(tmp_path / f"{number}.medseg3d")
        save_bundle(paths[-1], bundle, network)
        with torch.no_grad():
            logits.append(network.eval()(torch.from_numpy(batch)))
    together = Predictor.open(paths, device=CPU, overlap=0.5, precision="fp32", backend="eager")
    expected = torch.stack(logits).softmax(2).mean(0).log().numpy()
    np.testing.assert_allclose(together.network(batch), expected, atol=1e-5)
    labels = together.segment(case(wave()))
    assert labels.shape == (16, 16, 8)


def test_models_of_other_plans_are_not_averaged(tmp_path: Path) -> None:
    paths = []
    for name, of in (("a", plan()), ("b", plan(spacing=(2.0, 1.0, 1.0)))):
        paths.append(tmp_path / f"{name}.medseg3d")
        network = build_network("unet3d", 1, 4, options=OPTIONS)
        save_bundle(
            paths[-1], Bundle(network="unet3d", options=OPTIONS, plan=of, channels=1), network
        )
    with pytest.raises(ConfigError, match=r"b\.medseg3d was trained by another plan than .*a\.med"):
        Predictor.open(paths, device=CPU, overlap=0.5, precision="fp32", backend="eager")


def test_models_with_the_same_channels_in_another_order_are_not_averaged(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"scheme": "zscore", "lower": 0, "upper": 1, "mean": 0, "sd": 1}
    first, second = (Normalization(name=name, **facts) for name in ("T1", "FLAIR"))
    paths = []
    for name, channels in (("a", (first, second)), ("b", (second, first))):
        paths.append(tmp_path / f"{name}.medseg3d")
        bundle = Bundle(network="unet3d", options=OPTIONS, plan=plan(channels=channels), channels=2)
        save_bundle(paths[-1], bundle, build_network("unet3d", 2, 4, options=OPTIONS))
    with pytest.raises(ConfigError, match=r"b\.medseg3d takes its channels in the order FLAIR, T1"):
        Predictor.open(paths, device=CPU, overlap=0.5, precision="fp32", backend="eager")


class OfOneSize(nn.Module):
    """Takes images of one size only, as networks with learned positions do."""

    divisor = (16, 16, 8)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.divisor:
            raise RuntimeError(f"shape {tuple(x.shape)} is invalid")
        return torch.cat([0.1 + 0 * x, x, -x, x - 3], dim=1)


@pytest.mark.parametrize("shape", [(16, 16, 8), (20, 16, 8), (16, 16, 13), (40, 40, 20), (9, 9, 9)])
def test_a_network_of_one_size_sees_windows_of_that_size(shape: tuple[int, int, int]) -> None:
    found = predictor(plan(), OfOneSize(), mirror=False).segment(case(wave(shape)))
    expected = np.where(wave(shape) > 0.1, 4, np.where(wave(shape) < -0.1, 9, 0))
    assert (found == expected).mean() > 0.95


def test_a_network_of_one_size_is_compared_at_that_size() -> None:
    windows = [(32, 32, 16), (48, 32, 24)]
    assert taken(OfOneSize(), 1, windows) == [(16, 16, 8)]
    assert taken(SeesSides(), 1, windows) == windows
