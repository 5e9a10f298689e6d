"""The page of a run: which slice it shows, what it says, and that a broken case does not matter."""

import base64
import io
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from medseg3d.api.fitting import watching
from medseg3d.api.fitting.watching import Watch, richest_slice
from medseg3d.config import FitConfig
from medseg3d.data.cache import CachedCase
from medseg3d.data.plan import Normalization, Plan
from medseg3d.drawing import color_of
from medseg3d.training.live import Moment

SHAPE = (12, 10, 8)
PLAN = Plan(
    num_cases=2,
    labels={0: "background", 3: "core", 7: "shell"},
    channels=(Normalization(name="CT", scheme="zscore", lower=0, upper=300, mean=100, sd=50),),
    spacing=(1.0, 1.0, 2.0),
    coarse_axis=None,
    median_shape=SHAPE,
    patch_size=(8, 8, 8),
    batch_size=2,
    strides=((2, 2, 2),),
    kernels=((3, 3, 3), (3, 3, 3)),
    width=4,
    max_width=8,
)


def case_of(folder: Path, labels: np.ndarray, name: str = "box") -> CachedCase:
    image = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    return CachedCase.write(folder / name, case_id=name, image=image, labels=labels, num_labels=3)


def two_labels() -> np.ndarray:
    """The largest slice has one label, two smaller ones have both, the second of them more."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:11, 1:9, 2] = 1
    labels[3:6, 3:6, 4:6] = 1
    labels[7, 7, 4] = labels[7:9, 7, 5] = 2
    return labels


def watch(folder: Path, *held_out: CachedCase) -> Watch:
    config = FitConfig(data=Path("cases"), network="vnet", loss="focal")
    return Watch(folder, config, PLAN, held_out, device=torch.device("cpu"), precision="fp32")


def moment(**changes: Any) -> Moment:
    rows = (
        {"epoch": 1, "step": 2, "minutes": 1.0, "loss": 0.9, "learning_rate": 1e-3},
        {"epoch": 2, "step": 4, "minutes": 2.0, "loss": 0.5, "learning_rate": 1e-3}
        | {"dice": 0.75, "dice_core": 0.7, "dice_shell": 0.8},
        {"epoch": 3, "step": 6, "minutes": 3.0, "loss": 0.4, "learning_rate": 1e-3}
        | {"dice": float("nan"), "dice_core": float("nan"), "dice_shell": float("nan")},
    )
    facts: dict[str, Any] = {"rows": rows, "step": 6, "used": 0.25, "seconds": 180.0}
    return Moment(**facts | {"state": "training"} | changes)


def picture_of(page: str) -> np.ndarray:
    [data] = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    return np.asarray(imread(io.BytesIO(base64.b64decode(data))))


def test_the_slice_with_the_most_labels_is_shown(tmp_path: Path) -> None:
    labels = two_labels()
    assert richest_slice(case_of(tmp_path, labels)) == 5
    labels[labels == 2] = 0
    assert richest_slice(case_of(tmp_path, labels, "one label")) == 2
    assert richest_slice(case_of(tmp_path, np.zeros_like(labels), "none")) == 4


def test_the_page_tells_how_far_the_run_is(tmp_path: Path) -> None:
    case = case_of(tmp_path / "cache", two_labels())
    page = watch(tmp_path / "liver", case)
    page.look(case, two_labels())
    page.publish(moment())
    text = (tmp_path / "liver" / "index.html").read_text("utf-8")
    for told in (
        "<h1>liver</h1>",
        "25% of the budget, step 6",
        "3 min 0 s so far, 9 min 0 s left",
        "0.7500, epoch 2",
        "vnet, loss focal",
        "2 of 8 x 8 x 8 voxels",
        "cpu, fp32",
        "box, slice 5",
    ):
        assert told in text
    assert picture_of(text).ndim == 3
    page.publish(moment(state="over", used=1.0))
    text = page.path.read_text("utf-8")
    assert "training is over" in text
    assert "left</td>" not in text
    assert "refresh" not in text
    page.publish(moment(state="stopped"))
    assert "stopped; --resume goes on" in page.path.read_text("utf-8")


def test_a_label_has_the_color_that_its_value_has_everywhere(tmp_path: Path) -> None:
    case = case_of(tmp_path / "cache", two_labels())
    page = watch(tmp_path / "liver", case)
    page.look(case, two_labels())
    page.publish(moment())
    text = page.path.read_text("utf-8")
    pixels = np.rint(255 * picture_of(text)[..., :3]).astype(int)
    for label in (3, 7):
        assert f"background: rgb{color_of(label)}" in text
        assert (pixels == color_of(label)).all(axis=-1).any()


def test_only_the_case_that_is_shown_is_kept_and_its_latest_prediction(tmp_path: Path) -> None:
    empty = case_of(tmp_path, np.zeros(SHAPE, np.uint8), "empty")
    case, other = case_of(tmp_path, two_labels()), case_of(tmp_path, two_labels(), "other")
    page = watch(tmp_path / "run", empty, case, other)
    pictures = []
    for looked_at, prediction in ((case, two_labels()), (other, 0 * two_labels())):
        page.look(looked_at, prediction)
        page.publish(moment())
        pictures.append(picture_of(page.path.read_text("utf-8")))
    assert np.array_equal(*pictures)
    page.look(case, 0 * two_labels())
    page.publish(moment())
    assert not np.array_equal(pictures[0], picture_of(page.path.read_text("utf-8")))


def test_a_page_without_a_case_or_a_row_is_a_page(tmp_path: Path) -> None:
    page = watch(tmp_path / "run")
    page.publish(moment(rows=(), step=0, used=0.0, seconds=0.0))
    text = page.path.read_text("utf-8")
    assert "Nothing to draw yet." in text
    assert "<img" not in text


def test_regions_are_shown_under_their_own_names(tmp_path: Path) -> None:
    plan = PLAN.with_regions({"whole": (3, 7), "inner": (3,)})
    config = FitConfig(data=Path("cases"))
    page = Watch(tmp_path, config, plan, (), device=torch.device("cpu"), precision="fp32")
    page.publish(
        moment(
            rows=(
                {"minutes": 1.0, "dice": 0.5, "dice_whole": 0.6, "dice_inner": 0.4}
                | {"epoch": 1, "loss": 0.5, "learning_rate": 0.1},
            )
        )
    )
    text = page.path.read_text("utf-8")
    assert (
        re.findall(r'class="number">(0.*?)<', text)
        == ["0.6000"] * 2 + ["0.4000"] * 2 + ["0.5000"] * 2
    )
    assert "whole</td>" in text
    assert "shell" not in text


def test_a_picture_that_cannot_be_made_stops_no_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(case: CachedCase) -> int:
        raise ValueError("damaged")

    monkeypatch.setattr(watching, "richest_slice", fail)
    case = case_of(tmp_path / "cache", two_labels())
    page = watch(tmp_path / "run", case)
    page.look(case, two_labels())
    page.look(case, two_labels())
    page.publish(moment())
    assert "<img" not in page.path.read_text("utf-8")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
