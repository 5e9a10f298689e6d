"""``--mirror`` from the options to the model: axes chosen, pairs swapped, copies refused."""

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import medseg3d
from medseg3d.bundle import read_bundle
from medseg3d.config import FitConfig
from medseg3d.data.patches import PatchDataset
from medseg3d.data.plan import Plan
from medseg3d.errors import ConfigError

SHAPE = (16, 10, 10)
SMALL = {
    "epochs": 1,
    "steps_per_epoch": 2,
    "folds": 3,
    "batch_size": 1,
    "patch_size": (16, 8, 8),
    "width": 4,
    "precision": "fp32",
    "device": "cpu",
    "validate_every": 1,
}


def write_cases(folder: Path, names: dict[str, int], count: int = 9) -> Path:
    """Bodies with a box of value 5 on the left and one of value 2 on the right, stored LPS."""
    for number in range(count):
        generator = np.random.default_rng(number)
        labels = np.zeros(SHAPE, dtype=np.uint8)
        first = generator.integers(1, 4)
        labels[first : first + 4, 3:7, 3:7] = 5  # in RAS+ order the left comes first
        labels[15 - first - 3 : 16 - first, 3:7, 3:7] = 2
        image = generator.normal(200, 5, SHAPE) + 100 * (labels > 0)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0])
        for kind, array in (("imagesTr", image.astype(np.int16)), ("labelsTr", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            suffix = "_0000" if kind == "imagesTr" else ""
            volume = nib.Nifti1Image(array[::-1, ::-1], affine)
            nib.save(volume, folder / kind / f"case_{number}{suffix}.nii.gz")
    facts = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0} | names,
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_model_fitted_with_mirror_predicts_with_mirror(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "data", {"kidney_left": 5, "kidney_right": 2})
    run = medseg3d.fit(data, out=tmp_path / "run", mirror=True, **SMALL)
    plan = read_bundle(run.bundle).plan
    assert plan.mirror_axes == (0, 1, 2)
    assert plan.swapped_labels == {5: 2}
    assert plan.mirrored_labels == (0, 2, 1)
    image = data / "imagesTr" / "case_0_0000.nii.gz"
    (prediction,) = medseg3d.predict(
        image, model=run.bundle, mirror=True, out=tmp_path / "a.nii.gz"
    )
    assert nib.load(prediction.path).shape == SHAPE
    with pytest.raises(ConfigError, match="mirror cannot be given beside a plan"):
        medseg3d.fit(data, plan=run.folder / "plan.yaml", mirror=True, epochs=1)


def test_unnamed_sides_are_not_mirrored_and_copies_only_as_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_cases(tmp_path / "data", {"organ": 5, "other": 2})
    with caplog.at_level(logging.INFO, "medseg3d"):
        run = medseg3d.fit(data, out=tmp_path / "run", mirror=True, **SMALL)
    assert read_bundle(run.bundle).plan.mirror_axes == (1, 2)
    assert "'organ' lies on the left in 6 of 6 cases" in caplog.text
    assert "'other' lies on the right in 6 of 6 cases" in caplog.text


def test_a_model_fitted_without_mirror_refuses_copies(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "data", {"organ": 5, "other": 2}, count=3)
    run = medseg3d.fit(data, out=tmp_path / "run", **SMALL)
    image = data / "imagesTr" / "case_0_0000.nii.gz"
    with pytest.raises(ConfigError, match="trained without mirroring"):
        medseg3d.predict(image, model=run.bundle, mirror=True, out=tmp_path / "a.nii.gz")
    assert not (tmp_path / "a.nii.gz").exists()
    kept = {name: SMALL[name] for name in ("epochs", "steps_per_epoch", "folds", "device")}
    axes = {"augmentation": {"mirror_axes": (2,)}}
    again = medseg3d.fit(data, out=tmp_path / "b", plan=run.folder / "plan.yaml", **kept, **axes)
    assert read_bundle(again.bundle).plan.mirror_axes == (2,)
    assert Plan.load(again.folder / "plan.yaml").mirror_axes == (2,)


@pytest.mark.parametrize("chosen", [(0,), (0, 1, 2)])
def test_patches_are_mirrored_as_the_plan_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: tuple[int, ...]
) -> None:
    made: list[PatchDataset] = []

    def remember(*args: object, **options: object) -> PatchDataset:
        made.append(PatchDataset(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr("medseg3d.api.fitting.preparing.PatchDataset", remember)
    data = write_cases(tmp_path / "data", {"kidney_left": 5, "kidney_right": 2}, count=3)
    never = {f"{kind}_probability": 0 for kind in ("affine", "elastic", "intensity")}
    by_hand = {"augmentation": never | {"mirror_axes": chosen}}
    options = by_hand if chosen == (0,) else {"augmentation": never, "mirror": True}
    run = medseg3d.fit(data, out=tmp_path / "run", **SMALL, **options)
    assert Plan.load(run.folder / "plan.yaml").mirror_axes == chosen
    (patches,) = made
    mirrored = [patches[number] for number in range(24)]
    patches.augmentation = None
    flips = []
    for patch, before in zip(mirrored, (patches[number] for number in range(24)), strict=True):
        labels = patch["labels"].numpy()[0]
        right, left = (np.argwhere(labels == label)[:, 0].mean() for label in (1, 2))
        assert left < right, "values 2 and 5 are channels 1 and 2; the left comes first"
        flips += [
            axes
            for axes in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
            if torch.equal(patch["image"], before["image"].flip([axis + 1 for axis in axes]))
        ]
    assert len(flips) == 24
    for axis in chosen:
        assert 6 <= sum(axis in axes for axes in flips) <= 18
    assert set().union(*flips) == set(chosen)


@pytest.mark.parametrize("axes", [(0,), (1, 2)])
def test_axes_are_chosen_or_given_not_both(axes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give one of them"):
        FitConfig(data=Path("x"), mirror=True, augmentation={"mirror_axes": axes})
