"""A deterministic run gives the same weights again, also when it was stopped on the way."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import medseg3d
from medseg3d.bundle import load_bundle
from medseg3d.losses.cross_entropy import CrossEntropy, frequency_weights
from medseg3d.training.module import SegmentationModule
from tests.api.small_sets import SHAPE, SMALL, write_cases

OPTIONS: dict[str, Any] = SMALL | {
    "epochs": 2,
    "width": 4,
    "patch_size": (8, 8, 8),
    "deterministic": True,
    "accumulate": 3,
    "checkpoint_minutes": 0,
    "loss": {"name": "dice+cross_entropy", "options": {"weight": "auto", "label_smoothing": 0.1}},
}


def test_a_run_that_was_stopped_gives_the_weights_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_cases(tmp_path / "data", {"background": 0, "organ": 1})
    options = OPTIONS | {"cache": tmp_path / "cache"}
    batches: list[int] = []
    weights: list[tuple[float, ...] | None] = []
    step = SegmentationModule.training_step

    def watched(module: SegmentationModule, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        assert torch.are_deterministic_algorithms_enabled()
        batches.append(batch_idx)
        found = [part for part in module.loss.modules() if isinstance(part, CrossEntropy)]
        weights.append(found[0].weight)
        if len(batches) == 8:  # in the midst of the third of four steps
            raise KeyboardInterrupt
        return step(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationModule, "training_step", watched)
        with pytest.raises(KeyboardInterrupt):
            medseg3d.fit(data, out=tmp_path / "cut", **options)
    organ = 2 * 3 * 4 * 8  # voxels in both training cases
    rest = 2 * SHAPE[0] * SHAPE[1] * SHAPE[2] - organ
    assert weights[0] == pytest.approx(frequency_weights([rest, organ]))
    assert not torch.are_deterministic_algorithms_enabled()
    with caplog.at_level(logging.INFO, "medseg3d"):
        resumed = medseg3d.fit(data, out=tmp_path / "cut", resume=True, **options)
        whole = medseg3d.fit(data, out=tmp_path / "whole", **options)
    ours, theirs = load_bundle(resumed.bundle)[1], load_bundle(whole.bundle)[1]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (tmp_path / "cut/history.csv").read_text().count("\n") == 3
