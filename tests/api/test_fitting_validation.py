"""Validation while training looks at the network and changes nothing."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import medseg3d
from medseg3d.api.fitting import validating
from medseg3d.api.fitting.validating import validate
from medseg3d.data.cache import CachedCase
from medseg3d.errors import ModelError
from medseg3d.training.checkpoint import read_checkpoint

CPU = torch.device("cpu")
PLAN: Any = SimpleNamespace(window=(8, 8, 8), single_slices=None, num_labels=3, region_indices=())


class Restless(nn.Module):
    """Finds label 1 above 0.5 and label 2 above 1.5, and draws numbers all the while."""

    divisor = (1, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.BatchNorm3d(1)
        self.inner = nn.Sequential(nn.BatchNorm3d(1), nn.Dropout(0.5))

    def forward(self, image: Tensor) -> Tensor:
        torch.rand(3)
        self.inner(self.frozen(image))
        x = image * self.weight
        return torch.cat([x * 0, x - 0.5, 2 * (x - 1.0)], dim=1)


def cached(image: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> CachedCase:
    return SimpleNamespace(image=lambda: image, labels=lambda: labels)  # type: ignore[return-value]


def random_cases() -> list[CachedCase]:
    rng = np.random.default_rng(0)
    cases = []
    for shape in ((12, 9, 10), (8, 8, 8), (5, 11, 20)):
        labels = rng.integers(0, 3, shape).astype(np.uint8)
        image = rng.integers(0, 3, shape).astype(np.float32)[None]
        cases.append(cached(image, labels))
    return cases


def test_dice_is_the_mean_over_cases() -> None:
    cases = random_cases()
    found = validate(Restless(), cases, PLAN, overlap=0.5, device=CPU, precision="fp32")
    expected = []
    for label in (1, 2):
        pairs = [(case.image()[0] == label, case.labels() == label) for case in cases]
        expected.append(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))
    assert found == pytest.approx(expected)


def test_logits_that_are_not_finite_find_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ModelError("the network gives values that are not finite numbers")

    monkeypatch.setattr(validating, "predict_labels", refuse)
    found = validate(Restless(), random_cases(), PLAN, overlap=0.5, device=CPU, precision="fp32")
    assert found == [0.0, 0.0]
    assert "counts as not found: the network gives values that are not finite" in caplog.text


def test_a_label_that_no_case_has_is_not_known() -> None:
    nothing = cached(np.zeros((1, 8, 8, 8), np.float32), np.zeros((8, 8, 8), np.uint8))
    found = validate(Restless(), [nothing], PLAN, overlap=0.5, device=CPU, precision="fp32")
    assert all(map(math.isnan, found))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_network_modes_and_random_numbers_stay(precision: Any) -> None:
    network = Restless().train()
    network.frozen.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random, numpy_random = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    validate(network, random_cases(), PLAN, overlap=0.5, device=CPU, precision=precision)
    assert torch.equal(torch.get_rng_state(), random)
    assert np.array_equal(np.random.get_state()[1], numpy_random)  # noqa: NPY002
    assert [module.training for module in network.modules()] == modes
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    loss = network(torch.ones(1, 1, 8, 8, 8)).mean()
    loss.backward()
    assert network.weight.grad is not None


def test_modes_stay_when_validation_fails() -> None:
    def fail() -> None:
        raise MemoryError

    network = Restless().train()
    network.frozen.eval()
    broken: Any = SimpleNamespace(image=fail, labels=lambda: np.zeros((8, 8, 8), np.uint8))
    with pytest.raises(MemoryError):
        validate(network, [broken], PLAN, overlap=0.5, device=CPU, precision="fp32")
    assert network.training
    assert network.inner.training
    assert not network.frozen.training


def test_training_is_the_same_with_and_without_validation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        labels = np.zeros((14, 12, 10), np.uint8)
        labels[3:9, 2:8, 3:8] = 1
        image = (rng.normal(100, 5, labels.shape) + 100 * labels).astype(np.int16)
        for name, array in (("images", image), ("labels", labels)):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            volume = nib.Nifti1Image(array, np.eye(4))
            volume.header.set_xyzt_units("mm")
            nib.save(volume, tmp_path / "data" / name / f"box_{number}.nii.gz")
    options: dict[str, Any] = {
        "epochs": 3,
        "steps_per_epoch": 2,
        "folds": 2,
        "batch_size": 1,
        "patch_size": (8, 8, 8),
        "width": 4,
        "precision": "fp32",
        "device": "cpu",
        "cache": tmp_path / "cache",
    }
    found = []
    for every in (1, 1000):
        folder = tmp_path / f"every_{every}"
        medseg3d.fit(tmp_path / "data", out=folder, validate_every=every, **options)
        checkpoint = read_checkpoint(folder / "checkpoints")
        assert checkpoint is not None
        found.append(checkpoint.tensors)
    often, once = found
    assert often.keys() == once.keys()
    assert any(name.startswith("optimizer.") for name in often)
    assert all(torch.equal(often[name], once[name]) for name in often)
