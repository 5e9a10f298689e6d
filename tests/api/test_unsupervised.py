"""Fit of W-Net: labels decide nothing of what is learned; held-out ones name what was found."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import medseg3d
from medseg3d.api.fitting.building import own_loss
from medseg3d.api.fitting.planning import planned
from medseg3d.bundle import load_bundle
from medseg3d.config import FitConfig, validated
from medseg3d.errors import ConfigError
from medseg3d.losses.normalized_cut import SoftNormalizedCut
from medseg3d.networks.cascade.wnet import WNet

SHAPE = (12, 10, 8)
OPTIONS: dict[str, Any] = {
    "epochs": 2,
    "steps_per_epoch": 35,
    "learning_rate": 0.01,
    "ema": 0.5,
    "folds": 2,
    "fold": 0,
    "batch_size": 1,
    "patch_size": (12, 12, 8),
    "precision": "fp32",
    "device": "cpu",
    "validate_every": 1,
    "evidence_cases": 0,
    "postprocess": "none",
    "width": 16,
    "network": {"name": "wnet", "options": {"segments": 4, "strides": [2, 2]}},
    "loss": {"name": "soft_normalized_cut", "options": {"radius": 2}},
    "augmentation": {"intensity_probability": 0.0, "elastic_probability": 0.0},
}


def write(folder: Path, *, wrong: str | None = None) -> Path:
    """Two cases with a bright box; the label map of one may be wrong."""
    for number in range(2):
        name = f"case_{number}"
        generator = np.random.default_rng(number)
        labels = np.zeros(SHAPE, dtype=np.uint8)
        labels[3:9, 3:8, 2:6] = 1
        image = generator.normal(100, 3, SHAPE) + 100 * labels
        if name == wrong:
            labels = np.roll(labels, (2, -2, 1), (0, 1, 2))
        for kind, array in (("images", image.astype(np.int16)), ("labels", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> medseg3d.Run:
    folder = tmp_path_factory.mktemp("wnet")
    data = write(folder / "boxes")
    return medseg3d.fit(data, out=folder / "run", cache=folder / "cache", **OPTIONS)


def test_it_finds_the_box_without_having_learned_from_a_label(
    run: medseg3d.Run, tmp_path: Path
) -> None:
    assert run.dice["label 1"] > 0.7
    image = run.folder.parent / "boxes" / "images" / "case_0.nii.gz"
    out = tmp_path / "found.nii.gz"
    (found,) = medseg3d.predict(image, model=run.folder, out=out, backend="eager", threads=1)
    labels = np.asarray(nib.load(found.path).dataobj)
    box = np.zeros(SHAPE, dtype=bool)
    box[3:9, 3:8, 2:6] = True
    assert 2 * (labels[box] == 1).sum() / (box.sum() + (labels == 1).sum()) > 0.7


def test_labels_of_training_cases_decide_nothing_and_held_out_ones_no_more_than_names(
    run: medseg3d.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[int]] = []
    plain = WNet.name_segments

    def noted(self: WNet, names: list[int]) -> None:
        told.append(list(names))
        plain(self, names)

    monkeypatch.setattr(WNet, "name_segments", noted)
    held_out = {path.name.split(".")[0] for path in run.folder.glob("validation/*.nii.gz")}
    (learned,) = {"case_0", "case_1"} - held_out
    data = write(tmp_path / "boxes", wrong=learned)
    again = medseg3d.fit(data, out=tmp_path / "run", cache=tmp_path / "cache", **OPTIONS)
    first, second = load_bundle(run.bundle)[1], load_bundle(again.bundle)[1]
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert again.dice == run.dice
    assert second["names"].tolist() in told
    assert set(second["names"].tolist()) == {0, 1}


def test_training_cases_need_no_label_map(run: medseg3d.Run, tmp_path: Path) -> None:
    held_out = {path.name.split(".")[0] for path in run.folder.glob("validation/*.nii.gz")}
    (learned,) = {"case_0", "case_1"} - held_out
    data = write(tmp_path / "boxes")
    (data / "labels" / f"{learned}.nii.gz").unlink()
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": [learned], "val": list(held_out)}]))
    places = {"out": tmp_path / "run", "cache": tmp_path / "cache", "splits": splits}
    again = medseg3d.fit(data, **OPTIONS | places)
    assert again.dice == run.dice
    first, second = load_bundle(run.bundle)[1], load_bundle(again.bundle)[1]
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_nor_do_they_where_the_network_is_that_of_a_model(
    run: medseg3d.Run, tmp_path: Path
) -> None:
    data, out = write(tmp_path / "boxes"), tmp_path / "run"
    (data / "labels" / "case_0.nii.gz").unlink()
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": ["case_0"], "val": ["case_1"]}]))
    given = {name: value for name, value in OPTIONS.items() if name not in ("network", "width")}
    places = {"data": data, "out": out, "splits": splits, "start_from": run.bundle}
    out.mkdir()
    _, plan, parts = planned(validated(FitConfig, given | places), out)
    assert (parts.training, parts.validation) == (("case_0",), ("case_1",))
    assert plan.num_cases == 1


def test_the_loss_of_labels_that_comes_by_default_is_replaced() -> None:
    given = {name: OPTIONS[name] for name in ("network", "loss")} | {"data": "cases"}
    loss = own_loss(validated(FitConfig, given))
    assert isinstance(loss, SoftNormalizedCut)
    assert loss.radius == 2
    loss = own_loss(validated(FitConfig, {**given, "loss": "dice_ce"}))
    assert isinstance(loss, SoftNormalizedCut)
    assert loss.radius == 3
    assert own_loss(validated(FitConfig, {**given, "network": "unet"})) is None


def test_an_option_that_the_loss_does_not_have_is_told_at_once(tmp_path: Path) -> None:
    options = {**OPTIONS, "loss": {"name": "soft_normalized_cut", "options": {"radios": 2}}}
    with pytest.raises(ConfigError, match="no option 'radios'; did you mean radius"):
        medseg3d.fit(tmp_path, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
