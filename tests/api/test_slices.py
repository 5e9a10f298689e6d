"""``fit --dims 2``: trained on slices, predicted slice by slice, one model file like any other."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

import medseg3d
from medseg3d.api.fitting import run as fitting
from medseg3d.api.fitting.starting import started
from medseg3d.bundle import load_bundle, read_bundle
from medseg3d.config import FitConfig, read_yaml, validated
from medseg3d.data.plan import Plan
from medseg3d.errors import ConfigError
from medseg3d.networks.slices import SliceNetwork
from tests.api.small_sets import SMALL

THICK = 4.0
DIMS_2: dict[str, Any] = SMALL | {"dims": 2, "width": 4, "batch_size": 4}


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Networks with which runs were stopped where training would begin."""
    networks: list[nn.Module] = []

    def stop(network: nn.Module, *_: Any, **__: Any) -> None:
        networks.append(network)
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "train", stop)
    return networks


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright boxes in noise; axis 0 of the files lies across thick slices, and runs to the feet."""
    folder = tmp_path_factory.mktemp("boxes")
    affine = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [-THICK, 0, 0, 0], [0, 0, 0, 1.0]])
    for number in range(2):
        generator = np.random.default_rng(number)
        labels = np.zeros((7, 20, 16), dtype=np.uint8)
        labels[2:5, 4:12, 5:12] = 1
        image = generator.normal(100, 5, labels.shape) + 100 * labels
        for name, array in (("images", image.astype(np.int16)), ("labels", labels)):
            (folder / name).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), folder / name / f"case_{number}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def run(boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    fast = {"steps_per_epoch": 40, "learning_rate": 1e-2, "ema": 0.9}
    options = DIMS_2 | fast | {"batch_size": 8, "width": 8}
    medseg3d.fit(boxes, out=folder / "run", cache=folder / "cache", **options)
    return folder / "run"


def test_it_learns_from_slices_and_labels_volumes(run: Path, boxes: Path, tmp_path: Path) -> None:
    bundle = read_bundle(run / "model.medseg3d")
    plan = bundle.plan
    assert bundle.network == "slices:unet3d"
    assert (plan.slice_axis, plan.patch_size[2], plan.window[2]) == (2, 1, 4)
    assert bundle.options["strides"] == [[2, 2]] * len(plan.strides)
    assert bundle.scores["mean"] > 0.9
    image = boxes / "images" / "case_0.nii.gz"
    (found,) = medseg3d.predict(image, model=run, out=tmp_path / "out.nii.gz")
    given, written = nib.load(image), nib.load(found.path)
    np.testing.assert_array_equal(written.affine, given.affine)
    truth = np.asarray(nib.load(boxes / "labels" / "case_0.nii.gz").dataobj)
    labels = np.asarray(written.dataobj)
    assert 2 * np.count_nonzero(labels & truth) / (labels.sum() + truth.sum()) > 0.9


def test_a_slice_does_not_depend_on_the_others(run: Path, boxes: Path) -> None:
    image = nib.load(boxes / "images" / "case_1.nii.gz")
    array = np.asarray(image.dataobj).astype(np.float32)
    model = {"model": run, "backend": "eager", "device": "cpu", "precision": "fp32"}
    labels = medseg3d.predict(array, affine=image.affine, **model)
    # half of the slices in another order have the same normalization
    turned = medseg3d.predict(array[::-1].copy(), affine=image.affine, **model)
    assert labels.any()
    np.testing.assert_array_equal(turned[::-1], labels)


def test_a_network_with_an_objective_of_its_own_trains_on_slices(
    boxes: Path, tmp_path: Path
) -> None:
    saunet = {"name": "saunet", "options": {"stem": 4, "growth": 2, "layers": [1, 1]}}
    run = medseg3d.fit(boxes, out=tmp_path / "run", cache=tmp_path / "c", network=saunet, **DIMS_2)
    assert read_bundle(run.bundle).network == "slices:saunet"
    assert set(run.dice) == {"label 1"}


def test_slabs_train_and_predict(boxes: Path, tmp_path: Path) -> None:
    place = {"out": tmp_path / "run", "cache": tmp_path / "cache"}
    run = medseg3d.fit(boxes, **place, **DIMS_2 | {"network": "unet", "slab": 3, "batch_size": 1})
    bundle = read_bundle(run.bundle)
    assert bundle.plan.patch_size[2] == 7
    assert (bundle.options["slab"], bundle.options["slice_axis"]) == (3, 2)
    image = boxes / "images" / "case_0.nii.gz"
    (found,) = medseg3d.predict(image, model=run.folder, out=tmp_path / "out.nii.gz")
    assert nib.load(found.path).shape == nib.load(image).shape


def test_an_interrupted_run_goes_on_with_slices(
    boxes: Path, tmp_path: Path, begun: list[nn.Module]
) -> None:
    place = {"out": tmp_path / "run", "cache": tmp_path / "cache"}
    with pytest.raises(KeyboardInterrupt):
        medseg3d.fit(boxes, **place, **DIMS_2 | {"slab": 3})
    stored = read_yaml(tmp_path / "run" / "config.yaml")
    assert (stored["dims"], stored["slab"], stored["network"]["name"]) == (2, 3, "unet3d")
    with pytest.raises(KeyboardInterrupt):
        medseg3d.fit(FitConfig(data=boxes, out=tmp_path / "run", resume=True))
    first, resumed = begun
    assert isinstance(resumed, SliceNetwork)
    assert resumed.slab == 3
    assert resumed.state_dict().keys() == first.state_dict().keys()


def test_a_run_begins_with_a_model_of_slices(
    run: Path, boxes: Path, tmp_path: Path, begun: list[nn.Module]
) -> None:
    place = {"out": tmp_path / "run", "cache": tmp_path / "cache", "start_from": run}
    with pytest.raises(KeyboardInterrupt):
        medseg3d.fit(boxes, **place, **SMALL)
    was, weights = load_bundle(run / "model.medseg3d")
    assert Plan.load(tmp_path / "run" / "plan.yaml").slice_axis == was.plan.slice_axis == 2
    state = begun[0].state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], weights[name]) for name in weights)
    for wrong, told in (
        ({"dims": 3}, "has dims 2, not 3"),
        ({"network": "unet"}, "is a unet3d, not a unet"),
        ({"dims": 2, "slab": 3}, "has slab 1, not 3"),
    ):
        with pytest.raises(ConfigError, match=f"{told}; leave out .*, or --from"):
            medseg3d.fit(boxes, **place | {"out": tmp_path / "other"}, **SMALL | wrong)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"network": "voxresnet"}, "'voxresnet' cannot be trained on slices.*leave out --dims 2"),
        ({"network": "slices:unet"}, "give --dims 2 --network unet$"),
        ({"patch_size": (16, 16, 16)}, r"16 x 16 x 16 .*give 16 x 16 x 1, or leave it out"),
        (
            {"network": {"name": "m_net", "options": {"slab": 3}}},
            "network.options: slab cannot be given, because dims and slab decide",
        ),
        (
            {"dims": 3, "network": {"name": "unet", "options": {"spatial_dims": 2}}},
            "network.options: spatial_dims cannot be given, because dims decides",
        ),
        ({"dims": 3, "slab": 3}, "a slab must be odd and needs dims 2, got slab 3 and dims 3"),
        ({"slab": 2}, "slab must be odd"),
        ({"dims": 4}, "dims: input should be less than or equal to 3, got 4"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    options: dict[str, Any], told: str, boxes: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        medseg3d.fit(boxes, out=tmp_path / "run", cache=tmp_path / "c", **DIMS_2 | options)
    assert not (tmp_path / "run").exists()


def test_options_that_come_from_a_model_keep_its_slab_in_every_process(boxes: Path) -> None:
    of_model = {"name": "slices:unet", "options": {"slab": 3}}  # handed out without the model
    for network, slab in ((of_model, 3), ({"name": "unet"}, 1)):
        given = {"data": boxes, "dims": 2, "network": network}
        found = started(started(validated(FitConfig, given)))
        assert (found.network.name, found.network.options) == ("slices:unet", {"slab": slab})


def test_a_plan_serves_the_dimensions_it_was_made_for(
    run: Path, boxes: Path, tmp_path: Path, begun: list[nn.Module]
) -> None:
    place = {"out": tmp_path / "run", "cache": tmp_path / "cache"}
    of_slices = run / "plan.yaml"
    with pytest.raises(ConfigError, match=r"plan.yaml is a plan for slices; give --dims 2, or"):
        medseg3d.fit(boxes, plan=of_slices, **place, **SMALL | {"batch_size": None})
    plan = Plan.load(of_slices)
    of_volumes = tmp_path / "plan.yaml"
    plan.model_copy(update={"slice_axis": None, "patch_size": (16, 16, 16)}).save(of_volumes)
    choices = DIMS_2 | {"batch_size": None, "width": None}
    with pytest.raises(ConfigError, match=r"is a plan for volumes; leave out --dims 2, or the"):
        medseg3d.fit(boxes, plan=of_volumes, **place, **choices)
    assert not (tmp_path / "run").exists()
    with pytest.raises(KeyboardInterrupt):
        medseg3d.fit(boxes, plan=of_slices, **place, **choices)
    assert Plan.load(tmp_path / "run" / "plan.yaml") == plan
    assert len(begun) == 1
