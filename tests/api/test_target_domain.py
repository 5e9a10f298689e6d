"""``--target-domain``: who may ask for it, what is learned from it, and how a run goes on."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import medseg3d
from medseg3d.api import rehearse
from medseg3d.api.fitting.following import refuse_what_needs_one_process
from medseg3d.bundle import load_bundle, read_bundle
from medseg3d.config import FitConfig, validated
from medseg3d.errors import ConfigError, DataError, MedSeg3DError, RunError
from medseg3d.networks.cascade.unet_gan import UnetGAN
from medseg3d.ranks import Rank
from medseg3d.training.team import Team

SHAPE = (16, 14, 12)
TINY = {"width": 4, "decoded": 4, "strides": [2, 2], "first_kernel": 3, "blocks": 1}
OPTIONS: dict[str, Any] = {
    "epochs": 4,
    "steps_per_epoch": 2,
    "folds": 2,
    "fold": 0,
    "batch_size": 1,
    "patch_size": (8, 8, 8),
    "precision": "fp32",
    "device": "cpu",
    "checkpoint_minutes": 0,
    "validate_every": 1,
    "evidence_cases": 0,
    "postprocess": "none",
    "network": {"name": "unet_gan", "options": TINY},
}


def write(folder: Path, *, count: int, contrast: float, labels_too: bool) -> Path:
    for number in range(count):
        generator = np.random.default_rng(number)
        labels = np.zeros(SHAPE, dtype=np.uint8)
        labels[3:11, 4:11, 2:9] = 1
        image = generator.normal(100, 5, SHAPE) + np.where(labels, contrast, 0)
        for kind, array in (("images", image.astype(np.int16)), ("labels", labels)):
            if kind == "images" or labels_too:
                (folder / kind).mkdir(parents=True, exist_ok=True)
                path = folder / kind / f"case_{number}.nii.gz"
                nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return write(folder, count=2, contrast=100, labels_too=True)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    return write(folder, count=3, contrast=-60, labels_too=False) / "images"


@pytest.fixture(scope="module")
def run(source: Path, target: Path, tmp_path_factory: pytest.TempPathFactory) -> medseg3d.Run:
    folder = tmp_path_factory.mktemp("run")
    return medseg3d.fit(
        source, out=folder / "run", cache=folder / "cache", target_domain=target, **OPTIONS
    )


def test_the_model_translates_what_it_is_to_label(
    run: medseg3d.Run, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_bundle(run.bundle).options["stage"] == "adapt"
    translated: list[torch.Size] = []
    plain = UnetGAN.translate

    def noted(self: UnetGAN, x: torch.Tensor) -> torch.Tensor:
        translated.append(x.shape)
        return plain(self, x)

    monkeypatch.setattr(UnetGAN, "translate", noted)
    (found,) = medseg3d.predict(
        target / "case_2.nii.gz",
        model=run.folder,
        out=tmp_path / "a.nii.gz",
        backend="eager",
        threads=1,
    )
    assert translated
    assert nib.load(found.path).shape == SHAPE


def test_one_process_trains_the_stages_of_the_model_to_begin_with(run: medseg3d.Run) -> None:
    config = FitConfig(data=Path("cases"), start_from=run.bundle, device="cpu")
    with pytest.raises(ConfigError, match="stages are trained by one process, here are 2"):
        refuse_what_needs_one_process(config, Team(Rank(0, 2)))


def test_images_of_the_target_are_told_among_what_was_learned_from(run: medseg3d.Run) -> None:
    data = json.loads((run.folder / "provenance.json").read_text())["data"]
    assert sorted(data) == ["case_0", "case_1", "target:case_0", "target:case_1", "target:case_2"]
    assert len(read_bundle(run.bundle).cases) == 5
    assert len(list((run.folder / "validation").glob("*.nii.gz"))) == 1


def test_a_resumed_run_repeats_the_uninterrupted_one(
    run: medseg3d.Run,
    source: Path,
    target: Path,
    tmp_path: Path,
) -> None:
    """Stopped in the second stage."""
    calls = 0
    plain = UnetGAN.objective

    def stopped(self: UnetGAN, *arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return plain(self, *arguments, **options)

    places = {"out": tmp_path / "run", "cache": tmp_path / "cache"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnetGAN, "objective", stopped)
        with pytest.raises(KeyboardInterrupt):
            medseg3d.fit(source, target_domain=target, **places, **OPTIONS)
    again = medseg3d.fit(source, resume=True, **places)
    first, second = load_bundle(run.bundle)[1], load_bundle(again.bundle)[1]
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert again.dice == run.dice


def test_a_run_does_not_go_on_with_other_images(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write(tmp_path / "target", count=1, contrast=-60, labels_too=False) / "images"
    places = {"out": tmp_path / "run", "cache": tmp_path / "cache"}

    def stopped(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(UnetGAN, "objective", stopped)
        with pytest.raises(KeyboardInterrupt):
            medseg3d.fit(source, target_domain=images, **places, **OPTIONS)
    path = images / "case_0.nii.gz"
    changed = np.asarray(nib.load(path).dataobj) + 1
    nib.save(nib.Nifti1Image(changed, np.eye(4)), path)
    with pytest.raises(RunError, match=r"1 cases have changed .* such as target:case_0"):
        medseg3d.fit(source, resume=True, **places)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, ConfigError, "'unet_gan' adapts to images of another domain; .* --target-domain"),
        (
            {"network": "unet", "target_domain": "images"},
            ConfigError,
            "network 'unet' cannot adapt to a target domain; leave out --target-domain",
        ),
        ({"target_domain": "nowhere"}, DataError, "nowhere does not exist"),
        ({"target_domain": "empty"}, DataError, "empty holds no file"),
        ({"target_domain": "images", "early_stop": 3}, ConfigError, "leave out early_stop"),
    ],
)
def test_what_cannot_work_is_one_sentence_before_anything_is_written(
    source: Path,
    target: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[MedSeg3DError],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"images": target, "nowhere": tmp_path / "nowhere", "empty": tmp_path / "empty"}
    options = {**OPTIONS, **changes}
    if "target_domain" in changes:
        options["target_domain"] = places[changes["target_domain"]]
    with pytest.raises(error, match=message) as raised:
        medseg3d.fit(source, out=tmp_path / "run", cache=tmp_path / "cache", **options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_images_with_other_channels_are_refused_by_name(source: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    pair = nib.Nifti1Image(np.ones((*SHAPE, 2), dtype=np.int16), np.eye(4))
    nib.save(pair, images / "pair.nii.gz")
    with pytest.raises(DataError, match=r"target:pair.*2 channels found where the plan has 1"):
        medseg3d.fit(
            source, out=tmp_path / "run", cache=tmp_path / "c", target_domain=images, **OPTIONS
        )


def test_a_dry_run_trains_both_stages(source: Path, target: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "data": source, "out": tmp_path / "run", "cache": tmp_path / "cache"}
    config = validated(FitConfig, {**options, "target_domain": target, "dry_run": True})
    found = rehearse(config)
    assert found.network == "unet_gan"
    assert not (tmp_path / "run").exists()
