"""A small review folder, written by hand as the page expects it: three cases that have images."""

import base64
import gzip
import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

SHAPE = (24, 28, 12)
AFFINE = np.array([[2.0, 0, 0, -24], [0, 2, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]])
COLORS = {3: [92, 184, 255], 70: [255, 198, 74]}
NAMES = {3: "core", 70: "shell"}
RIGHT, FALSE_POSITIVE, FALSE_NEGATIVE, WRONG_LABEL = 1, 2, 3, 4
BRIGHT = (slice(16, 22), slice(19, 25), slice(5, 9))
"""A cube in front of the patient's right, the only bright thing of the images."""

CORE = (slice(6, 14), slice(6, 14), slice(3, 9))
SHELL = (slice(14, 20), slice(6, 14), slice(3, 9))
WORST = (10, 11, 7)
"""Voxel of the slice that cases tell as their worst, along the third axis."""

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
"""A picture of one pixel."""

Map = npt.NDArray[np.uint8]


def labels_of(*, shift: int = 0, with_shell: bool = True) -> Map:
    """Core and shell, moved up by some voxels along the second axis."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[CORE] = 3
    if with_shell:
        labels[SHELL] = 70
    return np.roll(labels, shift, axis=1)


def errors_of(prediction: Map, reference: Map) -> Map:
    errors = np.zeros(SHAPE, dtype=np.uint8)
    errors[(prediction > 0) & (reference == 0)] = FALSE_POSITIVE
    errors[(prediction == 0) & (reference > 0)] = FALSE_NEGATIVE
    errors[(prediction > 0) & (reference > 0)] = WRONG_LABEL
    errors[(prediction == reference) & (reference > 0)] = RIGHT
    return errors


def packed(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(gzip.compress(nib.Nifti1Image(array, AFFINE).to_bytes(), 1)).decode()


def write_case(path: Path, case: str, prediction: Map, reference: Map | None) -> None:
    image = np.full(SHAPE, -1000, dtype=np.int16)
    image[2:-2, 2:-2] = 40
    image[BRIGHT] = 1000
    place = {
        "axis": 2,
        "voxel": WORST,
        "error_voxels": 12 if reference is not None else 0,
    }
    value = {
        "id": case,
        "modality": "CT",
        "window": [-1000, 1000],
        "image": packed(image),
        "prediction": packed(prediction),
        "reference": None if reference is None else packed(reference),
        "errors": None if reference is None else packed(errors_of(prediction, reference)),
        "worst": {"0": place, "70": {**place, "axis": 0, "voxel": (16, *WORST[1:])}},
        "reduced": False,
        "original_shape": list(SHAPE),
        "shape": list(SHAPE),
        "spacing_mm": [2, 2, 4],
        "voxel_to_mm": AFFINE[:3].tolist(),
        "voxel_to_file": np.eye(4)[:3].tolist(),
    }
    path.write_text(f"window.REVIEW_CASE({json.dumps(value)});", encoding="ascii")


def entry(
    case: str,
    dice: tuple[float | None, float | None],
    *,
    status: str = "ok",
    number: int = 1,
    outlier: float | None = None,
    has_reference: bool = True,
) -> dict[str, Any]:
    """A case of the list with the Dice of core and shell; 'far' is 10 mm at Dice 0, 0 at 1."""
    far = [None if value is None else 10 - 10 * value for value in dice]
    known = [value for value in dice if value is not None]
    mean = sum(known) / len(known) if known else None
    labels = {
        str(label): {
            "scores": {"dice": value, "far_mm": distance} if has_reference else {},
            "prediction_ml": 6.0 + label / 100 + number,
            "reference_ml": 6.5 if has_reference else None,
            "status": ("missed" if value == 0 else "ok") if has_reference else "unscored",
        }
        for label, value, distance in zip(NAMES, dice, far, strict=True)
    }
    return {
        "id": case,
        "patient": f"of {case}",
        "file": f"cases/{number:04d}.js",
        "thumbnail": "thumbnails/0001.png",
        "has_reference": has_reference,
        "status": status if has_reference else "unscored",
        "mean": {"dice": mean, "far_mm": None if mean is None else 10 - 10 * mean},
        "labels": labels,
        "outlier": outlier,
        "reasons": [] if outlier is None else ["volume of core far from that of the others"],
    }


def write_list(folder: Path, cases: list[dict[str, Any]], **changes: Any) -> None:
    column = {"unit": "", "better": "higher", "decimals": 3}
    value = {
        "format": 1,
        "title": "Small review",
        "created": "2026-01-31T12:00:00+00:00",
        "id": "0123456789abcdef",
        "sort": "dice",
        "columns": [
            {"name": "dice", "title": "Dice", **column},
            {"name": "far_mm", "title": "Far", "unit": "mm", "better": "lower", "decimals": 1},
        ],
        "labels": [
            {"value": label, "name": name, "color": COLORS[label]} for label, name in NAMES.items()
        ],
        "cases": cases,
        "failed": [],
        **changes,
    }
    (folder / "cases.js").write_text(f"window.REVIEW = {json.dumps(value)};", encoding="ascii")


def write_review(folder: Path) -> None:
    """Cases 'good', 'poor' and 'missed', 'blind' without a reference, 'gone' without its file."""
    for name in ("assets", "cases", "thumbnails"):
        (folder / name).mkdir(parents=True)
    with resources.as_file(resources.files("medseg3d.review") / "assets") as assets:
        for path in assets.iterdir():
            shutil.copy(path, folder if path.name == "index.html" else folder / "assets")
    reference = labels_of()
    write_case(folder / "cases" / "0001.js", "good", labels_of(), reference)
    write_case(folder / "cases" / "0002.js", "poor", labels_of(shift=3), reference)
    write_case(folder / "cases" / "0003.js", "missed", labels_of(with_shell=False), reference)
    write_case(folder / "cases" / "0004.js", "blind", labels_of(shift=1), None)
    (folder / "thumbnails" / "0001.png").write_bytes(base64.b64decode(DOT))
    cases = [
        entry("good", (1.0, 1.0), number=1),
        entry("poor", (0.6, 0.7), number=2),
        entry("missed", (0.9, 0.0), status="missed", number=3),
        entry("blind", (None, None), number=4, outlier=4.5, has_reference=False),
        entry("gone", (0.95, 0.95), number=5),
    ]
    failed = [{"id": "broken", "reason": "broken.nii.gz is cut off"}]
    write_list(folder, cases, failed=failed)
