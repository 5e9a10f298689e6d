"""The labeled volumes of ../shared/data as data sets of one structure each.

Each set is learned in minutes by a small network, and its Dice is that of volumes it has seen:
what is compared is two ways to predict, not how well a network does elsewhere. Of every volume
there is a second one, cut by two voxels on each side, so that one can be held out.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from medseg3d.data.canonical import load_case
from medseg3d.data.cases import Case
from medseg3d.types import Affine

SHARED = Path("../shared/data")
CUT, LEAST_EDGE = 2, 16


@dataclass(frozen=True)
class Labeled:
    """One volume.

    Attributes:
        name: Id of the case.
        images: Its channels, below the folder of the data.
        labels: Its label map.
        value: Which label counts.
    """

    name: str
    images: tuple[str, ...]
    labels: str
    value: int = 1


@dataclass(frozen=True)
class DataSet:
    """Volumes that show the same structure alike.

    Attributes:
        structure: What is labeled.
        channels: Names of the channels.
        volumes: The volumes.
        patch: Voxels of a patch and window, few so that much is learned in a minute.
        spacing: Of the working grid in mm; None as measured.
    """

    structure: str
    channels: tuple[str, ...]
    volumes: tuple[Labeled, ...]
    patch: tuple[int, int, int]
    spacing: tuple[float, float, float] | None = None

    @property
    def num_cases(self) -> int:
        """Cases with the second ones."""
        return 2 * len(self.volumes)


def _mr(name: str, image: str, labels: str, value: int = 1) -> Labeled:
    return Labeled(name, (image,), labels, value)


CT_SMALL = ("abdomen_ct/ts_ct_sm.nii.gz",), "abdomen_ct/ts_ct_sm_seg.nii.gz"
CT_SERIES = ("dicom/ts_ct_j2k",), "dicom/ts_ct_j2k_seg.nii.gz"
CORD = "spine/sub-unf01"

DATA_SETS = {
    "liver_ct": DataSet(
        "liver",
        ("CT",),
        (
            Labeled("chaos3", ("abdomen_ct/chaos3_ct.nii.gz",), "abdomen_ct/chaos3_liver.nii.gz"),
            Labeled("small", *CT_SMALL, 5),
            Labeled("series", *CT_SERIES, 5),
            Labeled("slices", ("dicom/dcmqi_ct3",), "dicom/dcmqi_liver_seg.nrrd"),
        ),
        patch=(64, 64, 32),
        spacing=(3.0, 3.0, 3.0),
    ),
    "spleen_ct": DataSet(
        "spleen",
        ("CT",),
        (
            Labeled("msd2", ("abdomen_ct/spleen2_ct.nii.gz",), "abdomen_ct/spleen2_spleen.nii.gz"),
            Labeled("small", *CT_SMALL, 1),
            Labeled("series", *CT_SERIES, 1),
        ),
        patch=(64, 64, 48),
        spacing=(3.0, 3.0, 4.0),
    ),
    "cord_mr": DataSet(
        "cord",
        ("MR",),
        (
            _mr("t1w", f"{CORD}_T1w.nii.gz", f"{CORD}_T1w_seg.nii.gz"),
            _mr("t2w", f"{CORD}_T2w.nii.gz", f"{CORD}_T2w_seg.nii.gz"),
            _mr("t2star", f"{CORD}_T2star.nii.gz", f"{CORD}_T2star_seg.nii.gz"),
            _mr("sct-t2", "spine/sct_t2.nii.gz", "spine/sct_t2_seg-manual.nii.gz"),
            _mr("sct-t1w", "spine/sct_t1w.nii.gz", "spine/sct_t1w_seg-manual.nii.gz"),
        ),
        patch=(64, 64, 16),
    ),
    "liver_mr": DataSet(
        "liver",
        ("MR",),
        (_mr("mr", "abdomen_ct/ts_mr_sm.nii.gz", "abdomen_ct/ts_mr_sm_seg.nii.gz", 5),),
        patch=(64, 64, 16),
    ),
    "tumor_brain": DataSet(
        "tumor",
        ("MR",),
        (_mr("brain1", "brain/brain1_image.nrrd", "brain/brain1_label.nrrd"),),
        patch=(96, 96, 16),
    ),
    "tumor_breast": DataSet(
        "tumor",
        ("MR",),
        (_mr("breast1", "breast/breast1_image.nrrd", "breast/breast1_label.nrrd"),),
        patch=(32, 64, 16),
    ),
    "lesions_ms": DataSet(
        "lesion",
        ("FLAIR", "T1", "T1 with contrast", "T2"),
        (
            Labeled(
                "ms19",
                tuple(f"multimodal/ms19_{kind}.nii.gz" for kind in ("flair", "t1", "t1ce", "t2")),
                "multimodal/ms19_lesions.nii.gz",
            ),
        ),
        patch=(48, 48, 48),
    ),
}


def write(found: DataSet, folder: Path) -> Path:
    """The set in the raw layout of nnU-Net, unless it is there."""
    description = folder / "dataset.json"
    if description.is_file():
        return folder
    for volume in found.volumes:
        images = tuple(SHARED / image for image in volume.images)
        loaded = load_case(Case(volume.name, images, SHARED / volume.labels, volume.name))
        assert loaded.labels is not None
        labels = (loaded.labels == volume.value).astype(np.uint8)
        for name, part, affine in _parts(volume.name, labels.shape, loaded.grid.affine):
            _save(labels[part], affine, folder / "labelsTr" / f"{name}.nii.gz")
            for number, channel in enumerate(loaded.image):
                _save(channel[part], affine, folder / "imagesTr" / f"{name}_{number:04d}.nii.gz")
    facts = {
        "channel_names": {str(number): name for number, name in enumerate(found.channels)},
        "labels": {"background": 0, found.structure: 1},
        "numTraining": found.num_cases,
        "file_ending": ".nii.gz",
    }
    description.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return folder


def _parts(
    name: str, shape: tuple[int, ...], affine: Affine
) -> Iterator[tuple[str, tuple[slice, ...], Affine]]:
    """Name, voxels and affine of the whole and of the part."""
    yield name, (slice(None),) * 3, affine
    margins = [CUT if n > LEAST_EDGE else 0 for n in shape]
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ margins
    part = tuple(slice(cut, n - cut) for cut, n in zip(margins, shape, strict=True))
    yield f"{name}cut", part, moved


def _save(array: npt.NDArray[Any], affine: Affine, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(np.ascontiguousarray(array), affine).to_filename(path)
