"""Self-correction: when cycles begin, what they average, what becomes of wrong labels."""

import csv
import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.data import Dataset

from medseg3d.losses.case_maps import CutMaps
from medseg3d.training.budget import Budget
from medseg3d.training.correction import (
    FIRST,
    Correction,
    CorrectionSettings,
    thick_parts,
)
from medseg3d.training.course import Course
from medseg3d.training.module import SegmentationModule
from tests.training.small_runs import small_settings, stored, train_small


class Patches(Dataset[dict[str, Any]]):
    """Label 1 where the image is bright, but in one case of six it is where the image is dark."""

    def __init__(self, interrupted_at: int | None = None) -> None:
        self.interrupted_at = interrupted_at

    def __getitem__(self, n: int) -> dict[str, Any]:
        if n == self.interrupted_at:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(n)
        image = torch.randn(1, 6, 6, 6, generator=generator)
        labels = image > 0.3
        if n % 6 == 0:
            labels = ~labels
        return {"image": image, "labels": labels.to(torch.uint8), "case": f"case_{n}"}

    def case_id(self, n: int) -> str:
        return f"case_{n}"


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 4, 1), nn.BatchNorm3d(4), nn.LeakyReLU(), nn.Dropout(0.1), nn.Conv3d(4, 2, 1)
    )


def run(
    folder: Path, *, cycles: int = 3, ema: float = 0.9, patches: Patches | None = None, **more: Any
) -> nn.Module:
    network = small()
    train_small(
        network,
        patches or Patches(),
        folder,
        small_settings(
            budget=Budget(steps=60),
            ema=ema,
            steps_per_epoch=5,
            validate_every=1,
            checkpoint_seconds=0,
            correction=CorrectionSettings(cycles, thickness=(1, 1, 1)) if cycles else None,
        ),
        **more,
    )
    return network


def test_cycles_share_the_end_of_the_budget() -> None:
    correction = Correction(small(), CorrectionSettings(3, (3, 3, 3)))
    begun = [correction.due(used) for used in (0.0, FIRST - 0.01, FIRST, 0.49, 0.51, 0.76, 1.0)]
    assert begun == [0, 0, 1, 1, 2, 3, 3]


def test_the_mean_of_cycles_is_an_even_one() -> None:
    network = nn.Conv3d(1, 1, 1)
    correction = Correction(network, CorrectionSettings(4, (3, 3, 3)))
    means, changing = [], [correction.can_outvote]
    for value in (10.0, 4.0, 1.0, 7.0):
        weights = {name: torch.full_like(t, value) for name, t in network.named_parameters()}
        correction.begin_cycle(weights)
        means.append(float(correction.tensors["weight"].detach()))
        changing.append(correction.can_outvote)
    assert means == pytest.approx([10, 7, 5, 5.5])
    assert changing == [False, False, True, True, True]


class Sure(nn.Module):
    """Probabilities of three labels, everywhere the same."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, image: Tensor) -> Tensor:
        shape = (len(image), 3, *image.shape[2:])
        return self.logits.view(1, 3, 1, 1, 1).expand(shape)


def after(cycles: int, network: nn.Module, thickness: int = 3) -> Correction:
    correction = Correction(network, CorrectionSettings(4, thickness=(thickness,) * 3))
    for _ in range(cycles):
        correction.begin_cycle(dict(network.named_parameters()))
    correction.agreement = [[10_000] * 3] * 3  # it knows all labels
    return correction


def believed(correction: Correction, labels: Tensor) -> list[bool]:
    image = torch.zeros(len(labels), 1, *labels.shape[2:])
    kept = correction.believed(image, labels, [f"case {n}" for n in range(len(labels))])
    correction.end_step()
    return kept.tolist()


@pytest.mark.parametrize(
    ("cycles", "probability", "kept"),
    [(2, 0.74, True), (2, 0.76, False), (3, 0.66, True), (3, 0.67, False), (9, 0.66, True)],
)
def test_a_label_is_outvoted_by_the_votes_of_the_cycles(
    cycles: int, probability: float, kept: bool
) -> None:
    # 1 for the label and cycles * p against it: 1 + 2 * 0.25 = 2 * 0.75
    correction = after(cycles, Sure(1e-9, 1 - probability, probability))
    labels = torch.ones(1, 1, 4, 4, 4, dtype=torch.uint8)
    assert believed(correction, labels) == [kept]
    assert correction.shares() == {"case 0": float(not kept)}


def test_only_thick_parts_count_and_not_what_nobody_annotated() -> None:
    correction = after(2, Sure(0.98, 0.01, 0.01))
    labels = torch.zeros(3, 1, 8, 8, 8, dtype=torch.int64)
    labels[0, 0, :2, :6, :6] = 1  # two voxels thin
    labels[0, 0, 4:7, 4:7, 4:7] = 2  # thick, 27 of 99 voxels
    labels[1, 0, :4] = 3  # nobody annotated it
    labels[1, 0, 4:] = 1
    labels[2, 0, :2] = 1
    labels[2, 0, 5:8, 5:8, 5:8] = 1  # 27 of 155 voxels, less than a fifth
    assert believed(correction, labels) == [False, False, True]
    assert correction.counts == {"case 0": [27, 99], "case 1": [256, 256], "case 2": [27, 155]}
    assert list(correction.shares()) == ["case 1", "case 0", "case 2"]


def test_a_network_has_no_vote_on_labels_that_it_does_not_know() -> None:
    correction = after(2, Sure(0.98, 0.01, 0.01))
    correction.agreement = []
    labels = torch.zeros(1, 1, 6, 6, 6, dtype=torch.uint8)
    labels[..., :3] = 1
    for _ in range(3):  # it never finds label 1, which may be too rare so far
        assert believed(correction, labels) == [True]
    assert correction.agreement == [[324, 324, 0], [648, 0, 0], [324, 0, 0]]
    correction.agreement = [[324, 900, 0], [648, 900, 0], [324, 900, 0]]
    assert believed(correction, labels) == [False]


class Seen(nn.Module):
    """A loss that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, logits: Tensor, labels: Tensor, maps: CutMaps) -> Tensor:
        self.calls.append((logits, labels, maps.values))
        return logits.square().mean()


def test_a_loss_gets_the_patches_that_are_believed_with_their_maps() -> None:
    network, loss = Sure(0.01, 0.01, 0.98), Seen()
    module = SegmentationModule(
        network,
        loss,
        small_settings().optimizer,
        Course(),
        lambda: None,
        accumulate=2,
        correction=after(2, network),
    )
    labels = torch.full((3, 1, 4, 4, 4), 2, dtype=torch.uint8)
    labels[0] = labels[2] = 1  # which the network is sure is wrong
    batch = {
        "image": torch.zeros(3, 1, 4, 4, 4),
        "labels": labels,
        "case": ["a", "b", "c"],
        "maps": torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 3, 4, 4, 4),
    }
    learned = module.training_step(batch, 0)
    ((logits, seen, maps),) = loss.calls
    assert (len(logits), seen.unique().tolist(), maps.unique().tolist()) == (1, [2], [1.0])

    wrong = {name: value[:1] for name, value in batch.items()}
    module.training_step(wrong, 1).backward()
    assert network.logits.grad is not None
    assert not network.logits.grad.any()
    assert module.step_loss == float(learned.detach())  # of the first batch of the step alone
    module.training_step(wrong, 2)
    assert math.isnan(module.step_loss)


def test_a_step_without_anything_to_learn_from_is_not_in_the_history(tmp_path: Path) -> None:
    class Wrong(Patches):
        """In the epoch before the last one all labels are the other way round."""

        def __getitem__(self, n: int) -> dict[str, Any]:
            sample = super().__getitem__(n)
            if 100 <= n < 110:
                sample["labels"] = (sample["image"] <= 0.3).to(torch.uint8)
            return sample

    run(tmp_path, patches=Wrong())
    with (tmp_path / "history.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 12
    assert [math.isnan(loss) for loss in losses] == [False] * 10 + [True, False]
    assert min(losses[:10]) > 0.05


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 4)] * 3))
def test_thick_parts_are_those_that_hold_a_box(seed: int, thickness: tuple[int, ...]) -> None:
    mask = np.random.default_rng(seed).random((5, 6, 7)) < 0.8
    mask[:, 3] &= np.random.default_rng(seed + 1).random((5, 7)) < 0.2
    regions, _ = ndimage.label(mask)
    expected = np.zeros_like(mask)
    windows = np.lib.stride_tricks.sliding_window_view(mask, thickness)
    for place in np.argwhere(windows.all((3, 4, 5))):
        expected |= regions == regions[tuple(place)]
    np.testing.assert_array_equal(thick_parts(mask, thickness), expected)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    for number in (3, 59, 91):  # samples; two to a step
        with pytest.raises(KeyboardInterrupt):
            run(
                tmp_path / "cut",
                patches=Patches(interrupted_at=number),
                resume=number > 3,
            )
    found = run(tmp_path / "cut", resume=True)
    for ours, theirs in zip(found.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    ended, resumed = (stored(tmp_path / name) for name in ("whole", "cut"))
    assert ended.facts["cycles"] == resumed.facts["cycles"] == 3
    assert ended.facts["corrected"] == resumed.facts["corrected"] != {}
    names = [name for name in ended.tensors if name.startswith("correction.")]
    assert names
    assert all(torch.equal(ended.tensors[name], resumed.tensors[name]) for name in names)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_what_is_learned_and_the_table_tell_of_it(ema: float, tmp_path: Path) -> None:
    plain, corrected = (run(tmp_path / str(cycles), cycles=cycles, ema=ema) for cycles in (0, 3))
    assert not all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(plain.parameters(), corrected.parameters(), strict=True)
    )
    assert not (tmp_path / "0" / "corrections.csv").exists()
    with (tmp_path / "3" / "corrections.csv").open() as file:
        rows = [(row["case"], float(row["share_outvoted"])) for row in csv.DictReader(file)]
    assert [share for _, share in rows] == sorted((share for _, share in rows), reverse=True)
    wrong = [share for case, share in rows if int(case.removeprefix("case_")) % 6 == 0]
    right = [share for case, share in rows if int(case.removeprefix("case_")) % 6]
    assert max(wrong) > 0.5
    assert max(right) < 0.2


def test_cases_with_many_changes_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    correction = after(2, Sure(0.1, 0.2, 0.7))
    correction.counts = {"good": [2, 100], "bad": [75, 100], "empty": [0, 0]}
    with caplog.at_level(logging.WARNING, "medseg3d"):
        correction.write(tmp_path / "corrections.csv")
    (line,) = caplog.messages
    assert "1 cases: bad (75%); look at them" in line
    text = (tmp_path / "corrections.csv").read_text()
    assert text.splitlines() == ["case,share_outvoted", "bad,0.7500", "good,0.0200", "empty,0.0000"]


def test_the_table_keeps_names_that_are_not_utf8(tmp_path: Path) -> None:
    correction = after(2, Sure(0.1, 0.2, 0.7))
    correction.counts = {os.fsdecode(b"P\xe9rez"): [2, 100]}
    correction.write(tmp_path / "corrections.csv")
    written = (tmp_path / "corrections.csv").read_bytes()
    assert written == b"case,share_outvoted\nP\xe9rez,0.0200\n"
