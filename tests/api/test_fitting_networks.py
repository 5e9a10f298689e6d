"""Networks that are not ours, or learn from more than logits, through fit and predict."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import medseg3d
from medseg3d.api.fitting.planning import planned, refuse_what_cannot_be_built
from medseg3d.bundle import read_bundle
from medseg3d.config import FitConfig
from medseg3d.errors import ConfigError
from medseg3d.networks.dense import saunet

SHAPE = (16, 14, 12)
SMALL: dict[str, Any] = {
    "epochs": 1,
    "steps_per_epoch": 3,
    "folds": 2,
    "fold": 0,
    "batch_size": 1,
    "patch_size": (16, 16, 16),
    "precision": "fp32",
    "device": "cpu",
    "validate_every": 1,
    "evidence_cases": 0,
    "postprocess": "none",
    "width": 4,
}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    for number in range(2):
        generator = np.random.default_rng(number)
        labels = np.zeros(SHAPE, dtype=np.uint8)
        labels[3:10, 4:10, 2:9] = 1
        image = generator.normal(100, 5, SHAPE) + 100 * labels
        for name, array in (("images", image.astype(np.int16)), ("labels", labels)):
            (folder / name).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / name / f"case_{number}.nii.gz")
    return folder


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("monai:SegResNet", {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}),
        ("monai:UNet", {}),
        ("danet", {"width": 2, "depths": [1, 1, 1, 1]}),
    ],
)
def test_it_learns_and_its_model_predicts(
    name: str, options: dict[str, Any], boxes: Path, tmp_path: Path
) -> None:
    settings = SMALL | {"network": {"name": name, "options": options}, "cache": tmp_path / "c"}
    run = medseg3d.fit(
        boxes, out=tmp_path / "run", **settings | ({"width": None} if options else {})
    )
    assert read_bundle(run.bundle).network == name
    (found,) = medseg3d.predict(
        boxes / "images" / "case_0.nii.gz", model=run.folder, out=tmp_path / "out.nii.gz"
    )
    assert nib.load(found.path).shape == SHAPE


def test_a_network_with_an_objective_of_its_own_is_trained_by_it(
    boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    edges_of = saunet.label_edges

    def told(labels: Any, unknown: int) -> Any:
        seen.append(tuple(labels.shape))
        return edges_of(labels, unknown)

    monkeypatch.setattr(saunet, "label_edges", told)
    network = {"name": "saunet", "options": {"stem": 4, "growth": 2, "layers": [1, 1]}}
    run = medseg3d.fit(boxes, out=tmp_path / "run", cache=tmp_path / "c", network=network, **SMALL)
    assert seen == [(1, 1, 16, 16, 16)] * 3
    assert read_bundle(run.bundle).network == "saunet"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("probabilistic_unet", {"width": 2, "strides": [2]}),
        ("hierarchical_probabilistic_unet", {"width": 2, "strides": [2], "latents": [1]}),
    ],
)
def test_a_network_of_several_answers_is_trained_and_sampled(
    name: str, options: dict[str, Any], boxes: Path, tmp_path: Path
) -> None:
    settings = SMALL | {"network": {"name": name, "options": options}, "cache": tmp_path / "c"}
    run = medseg3d.fit(boxes, out=tmp_path / "run", **settings)
    [found] = medseg3d.predict(
        *(boxes / "images" / "case_0.nii.gz",),
        model=run.folder,
        out=tmp_path / "out.nii.gz",
        samples=2,
    )
    assert len(found.samples) == 2
    assert all(nib.load(path).shape == SHAPE for path in found.samples)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"network": "danet"},
            r"width 4 would have no effect, .* 'danet' .*give network\.options\.width=4 instead",
        ),
        ({"network": "danet", "dims": 2, "patch_size": None}, "width 4 would have no effect"),
        ({"network": "fc_densenet"}, "'fc_densenet' takes .* has no such option; leave it out"),
        ({"network": "monai:SegResNet"}, "'monai:SegResNet' takes .* no such option"),
        (
            {"network": {"name": "ynet_3d", "options": {"classes": 4}}},
            r"network\.options: classes cannot be given, because the CSV .* decides",
        ),
        (
            {"network": {"name": "ynet_2d", "options": {"classes": 4}}, "dims": 2},
            r"network\.options: classes cannot be given",
        ),
        (
            {"network": "siamese_unet", "dims": 2, "spacing": (4, 1, 1), "patch_size": None},
            r"sagittal slices .* leave out --dims 2, or .* network\.options\.mirror_axis",
        ),
    ],
)
def test_options_without_effect_are_refused(
    options: dict[str, Any], told: str, boxes: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        medseg3d.fit(boxes, out=tmp_path / "run", **SMALL | options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("network", ["danet", {"name": "ynet_3d", "options": {"classes": 4}}])
def test_a_run_that_was_begun_with_them_goes_on(network: Any, boxes: Path) -> None:
    options = SMALL | {"data": boxes, "network": network}
    refuse_what_cannot_be_built(FitConfig.model_validate(options | {"resume": True}))


@pytest.mark.parametrize("name", ["hierarchical_probabilistic_unet", "wnet", "wnet_density"])
def test_regions_are_refused_where_a_loss_of_its_own_ignores_them(
    name: str, boxes: Path, tmp_path: Path
) -> None:
    options = SMALL | {"network": name, "regions": {"all": (1,)}, "width": None}
    with pytest.raises(ConfigError, match=f"'{name}' learns by a loss of its own.*regions all;"):
        medseg3d.fit(boxes, out=tmp_path / "run", **options)
    network = {"name": "hierarchical_probabilistic_unet", "options": {"objective": "elbo"}}
    config = FitConfig.model_validate(options | {"data": boxes, "network": network})
    assert planned(config, tmp_path)[1].regions


def test_an_unknown_class_is_refused_before_anything_is_written(
    boxes: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="did you mean monai:SwinUNETR"):
        medseg3d.fit(boxes, out=tmp_path / "run", network="monai:SwinUNet", **SMALL)
    assert not (tmp_path / "run").exists()
