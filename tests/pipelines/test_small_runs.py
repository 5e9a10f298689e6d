"""Each pipeline runs a few steps on generated scans of the shape and layout that it is for.

Only sizes are changed: patch, widths and number of steps. What the pipeline chooses stays.
"""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import medseg3d
from medseg3d.bundle import read_bundle
from medseg3d.config import FitConfig, read_yaml, validated
from medseg3d.data.cases import patient_of
from medseg3d.data.plan import Plan
from medseg3d.data.stages import topology
from medseg3d.networks import NETWORKS, build_network
from medseg3d.networks.topology import Topology

PIPELINES = Path(__file__).parents[2] / "pipelines"
QUICK = {
    "max_minutes": None,
    "epochs": 1,
    "steps_per_epoch": 2,
    "folds": 2,
    "batch_size": 1,
    "workers": 0,
    "device": "cpu",
    "precision": "fp32",
    "evidence_cases": 0,
}
SIZES = {"max_minutes", "epochs", "steps_per_epoch", "folds", "batch_size", "workers", "patch_size"}
SIZES |= {"width", "network", "device", "precision", "evidence_cases", "data", "out", "cache"}
"""What the tests change; all else is as in the file."""


@dataclass(frozen=True)
class Scan:
    """A generated scan: one image per channel and its label map."""

    images: list[np.ndarray]
    labels: np.ndarray
    spacing: tuple[float, float, float]

    def write(self, array: np.ndarray, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([*self.spacing, 1.0])), path)


def scan(
    seed: int,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    *,
    num_channels: int,
    radii: Mapping[int, float],
    level: float = 100.0,
) -> Scan:
    """Balls inside each other, one per label, around a center that the seed chooses.

    Args:
        seed: Of center and noise.
        shape: Voxels.
        spacing: In mm.
        num_channels: Images.
        radii: Radius in mm of each label's ball, the outermost first.
        level: Brightness of what is outside.
    """
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) * spacing
    center = (np.array(shape) - 1) * spacing / 2 + rng.uniform(-1, 1, 3)
    distance = np.linalg.norm(places - center, axis=-1)
    labels = np.zeros(shape, dtype=np.uint8)
    for label, radius in radii.items():
        labels[distance < radius] = label
    images = [
        (rng.normal(level, 5, shape) + 40 * (channel + 1) * labels).astype(np.int16)
        for channel in range(num_channels)
    ]
    return Scan(images, labels, spacing)


def decathlon(
    folder: Path, scans: Mapping[str, Scan], channels: list[str], labels: dict[int, str]
) -> None:
    """As the Medical Segmentation Decathlon packs it: all channels in one 4D image."""
    for name, one in scans.items():
        whole = one.images[0] if len(one.images) == 1 else np.stack(one.images, axis=-1)
        one.write(whole, folder / "imagesTr" / f"{name}.nii.gz")
        one.write(one.labels, folder / "labelsTr" / f"{name}.nii.gz")
    description = {
        "modality": {str(number): name for number, name in enumerate(channels)},
        "labels": {str(value): name for value, name in labels.items()},
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in scans
        ],
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def liver(folder: Path) -> None:
    scans = {
        f"liver_{seed}": scan(
            seed, (36, 34, 14), (0.8, 0.8, 1.0), num_channels=1, radii={1: 6, 2: 3}, level=-80
        )
        for seed in range(4)
    }
    decathlon(folder, scans, ["CT"], {0: "background", 1: "liver", 2: "cancer"})


def brain_tumors(folder: Path) -> None:
    names = {0: "background", 1: "edema", 2: "non-enhancing tumor", 3: "enhancing tumour"}
    scans = {
        f"BRATS_{seed:03d}": scan(
            seed, (22, 24, 20), (1.0, 1.0, 1.0), num_channels=4, radii={1: 9, 2: 6, 3: 4}
        )
        for seed in range(4)
    }
    decathlon(folder, scans, ["FLAIR", "T1w", "t1gd", "T2w"], names)


def hearts(folder: Path) -> None:
    """Two phases of two patients in thick slices."""
    for seed, name in enumerate(["sub-001_ed", "sub-001_es", "sub-002_ed", "sub-002_es"]):
        one = scan(seed, (30, 28, 7), (1.5, 1.5, 9.0), num_channels=1, radii={1: 20, 2: 14, 3: 10})
        one.write(one.images[0], folder / "images" / f"{name}.nii.gz")
        one.write(one.labels, folder / "labels" / f"{name}.nii.gz")
    description = {
        "channel_names": {"0": "cine MR"},
        "labels": {"background": 0, "right": 1, "myocardium": 2, "left": 3},
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def prostates(folder: Path) -> None:
    for seed in range(4):
        one = scan(seed, (36, 36, 9), (0.6, 0.6, 3.3), num_channels=1, radii={1: 8})
        one.write(one.images[0], folder / "images" / f"Case{seed:02d}.nii.gz")
        one.write(one.labels, folder / "labels" / f"Case{seed:02d}_segmentation.nii.gz")


def lesions(folder: Path) -> None:
    """A folder per visit, and lesions of a few voxels."""
    for seed, name in enumerate(["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1", "sub-02_ses-2"]):
        one = scan(seed, (22, 24, 20), (1.0, 1.0, 1.0), num_channels=4, radii={1: 2.5})
        for channel, image in zip(("flair", "pd", "t1", "t2"), one.images, strict=True):
            one.write(image, folder / name / f"{channel}.nii.gz")
        one.write(one.labels, folder / name / "seg.nii.gz")


@dataclass(frozen=True)
class Example:
    """Cases for a pipeline, its sizes here, and what must come of them."""

    write: Callable[[Path], None]
    changes: Mapping[str, Any]
    labels: tuple[str, ...]
    channels: int
    patients: int
    spacing: tuple[float, float, float]
    steps: int = 2


def small(name: str, **options: Any) -> dict[str, Any]:
    """The network of a pipeline with other sizes."""
    network = read_yaml(PIPELINES / f"{name}.yaml")["network"]
    return {"name": network["name"], "options": network["options"] | options}


EXAMPLES = {
    "liver_tumor_ct": Example(
        liver,
        {
            "network": small("liver_tumor_ct", stem=12, growth=[4, 4], layers=[[2, 2], [1, 2]]),
            "patch_size": (32, 32, 12),
            "steps_per_epoch": 4,  # every stage has one
        },
        ("liver", "cancer"),
        channels=1,
        patients=4,
        spacing=(0.8, 0.8, 1.0),
        steps=4,
    ),
    "cardiac_cine": Example(
        hearts,
        {"width": 4},
        ("right", "myocardium", "left"),
        channels=1,
        patients=2,
        spacing=(1.5, 1.5, 9.0),
    ),
    "prostate_mr": Example(
        prostates,
        {
            "network": small("prostate_mr", width=2, strides=[2, 2]),
            "patch_size": (16, 16, 16),
        },
        ("label 1",),
        channels=1,
        patients=4,
        spacing=(1.0, 1.0, 1.5),
    ),
    "ms_lesions": Example(
        lesions,
        {"width": 4},
        ("label 1",),
        channels=4,
        patients=2,
        spacing=(1.0, 1.0, 1.0),
    ),
    "brats": Example(
        brain_tumors,
        {"width": 4, "patch_size": (16, 16, 16)},
        ("edema", "non-enhancing tumor", "enhancing tumour"),
        channels=4,
        patients=4,
        spacing=(1.0, 1.0, 1.0),
    ),
}


def chosen(name: str, **values: Any) -> FitConfig:
    """A pipeline's options with other values for some."""
    file = read_yaml(PIPELINES / f"{name}.yaml")
    return validated(FitConfig, {"data": "cases"} | file | values, source=name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs_a_few_steps_on_scans_of_that_shape(name: str, tmp_path: Path) -> None:
    example, data = EXAMPLES[name], tmp_path / "cases"
    example.write(data)
    places = {"data": data, "out": tmp_path / "run", "cache": tmp_path / "cache"}
    config = chosen(name, **QUICK | dict(example.changes) | places)
    run = medseg3d.fit(config)

    as_written = chosen(name)
    stored = validated(FitConfig, read_yaml(run.folder / "config.yaml"))
    kept = set(FitConfig.model_fields) - SIZES
    assert {key: getattr(stored, key) for key in kept} == {
        key: getattr(as_written, key) for key in kept
    }
    with (run.folder / "history.csv").open() as file:
        assert int(list(csv.DictReader(file))[-1]["step"]) == example.steps
    plan = Plan.load(run.folder / "plan.yaml")
    assert tuple(name for value, name in plan.labels.items() if value) == example.labels
    assert len(plan.channels) == example.channels
    assert plan.spacing == pytest.approx(example.spacing)
    bundle = read_bundle(run.bundle)
    assert bundle.network == as_written.network.name
    assert set(run.dice) == set(as_written.regions or example.labels)
    split = json.loads((run.folder / "split.json").read_text())
    sides = [{patient_of(case) for case in split[side]} for side in ("training", "validation")]
    assert sides[0].isdisjoint(sides[1])
    assert len(sides[0] | sides[1]) == example.patients
    if name == "cardiac_cine":
        assert plan.coarse_axis == 2
        assert (plan.kernels[0], plan.strides[0]) == ((3, 3, 1), (2, 2, 1))
    if name == "brats":
        assert plan.regions["tumor_core"] == (2, 3)
    if name == "liver_tumor_ct":
        assert bundle.options["stage"] == "joint"
        assert plan.channels[0].scheme == "ct"


def test_every_pipeline_for_a_task_runs_here() -> None:
    measured = {"bakeoff", "demo", "hippocampus", "hippocampus_vnet", "hippocampus_hdenseunet"}
    assert {path.stem for path in PIPELINES.glob("*.yaml")} == {*EXAMPLES, *measured}


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_says_what_a_complete_one_says(name: str) -> None:
    complete = set(read_yaml(PIPELINES / "hippocampus.yaml"))
    lacking = complete - set(read_yaml(PIPELINES / f"{name}.yaml"))
    assert lacking <= {"width"}, "networks with widths of their own need none"
    augmentation = read_yaml(PIPELINES / f"{name}.yaml")["augmentation"]
    assert set(augmentation) == set(read_yaml(PIPELINES / "hippocampus.yaml")["augmentation"])


def num_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "spacing", "unlike_the_paper"),
    [
        ("liver_tumor_ct", (0.77, 0.77, 1.0), {"long_skips": False}),
        ("prostate_mr", (1.0, 1.0, 1.5), {"norm": "none"}),
    ],
)
def test_its_network_is_the_published_one_but_for_what_it_says(
    name: str, spacing: tuple[float, float, float], unlike_the_paper: dict[str, Any]
) -> None:
    config = chosen(name)
    assert config.patch_size is not None
    strides, kernels = topology(config.patch_size, spacing)
    measured = Topology(patch_size=config.patch_size, strides=strides, kernels=kernels)
    paper: Any = NETWORKS[config.network.name]
    outputs = {"liver_tumor_ct": 3, "prostate_mr": 2}[name]
    with torch.device("meta"):
        published = num_parameters(paper.paper())
        ours = build_network(
            config.network.name,
            1,
            outputs,
            topology=measured,
            options=config.network.options | unlike_the_paper,
        )
    assert num_parameters(ours) == published
