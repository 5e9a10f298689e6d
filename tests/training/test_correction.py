"""Self-correction: when cycles begin, what they average, what becomes of wrong labels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from medseg3d.losses import LOSSES
from medseg3d.training.budget import Budget
from medseg3d.training.checkpoint import read_checkpoint
from medseg3d.training.correction import FIRST, LEAST_TRUST, Correction, CorrectionSettings
from medseg3d.training.module import OptimizerSettings
from medseg3d.training.train import TrainingSettings, train


class Patches(Dataset[dict[str, Any]]):
    """Label 1 where the image is bright, but in one case of three, whose labels mean nothing."""

    def __init__(self, interrupted_at: int | None = None) -> None:
        self.interrupted_at = interrupted_at

    def __getitem__(self, n: int) -> dict[str, Any]:
        if n == self.interrupted_at:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(n)
        image = torch.randn(1, 6, 6, 6, generator=generator)
        labels = image > 0.3
        if n % 3 == 0:
            labels = torch.randn(1, 6, 6, 6, generator=generator) > 0.3
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
    train(
        network,
        LOSSES.build("dice_ce"),
        patches or Patches(),
        folder=folder,
        label_names=["bright"],
        validate=lambda *_: [0.5],
        num_held_out=1,
        save_best=lambda *_: None,
        settings=TrainingSettings(
            budget=Budget(steps=10),
            optimizer=OptimizerSettings(learning_rate=0.05),
            ema=ema,
            batch_size=2,
            steps_per_epoch=5,
            validate_every=1,
            checkpoint_seconds=0,
            correction=CorrectionSettings(cycles) if cycles else None,
        ),
        device=torch.device("cpu"),
        precision="fp32",
        **more,
    )
    return network


def test_cycles_share_the_end_of_the_budget() -> None:
    correction = Correction(small(), CorrectionSettings(3))
    begun = [correction.due(used) for used in (0.0, FIRST - 0.01, FIRST, 0.59, 0.61, 0.81, 1.0)]
    assert begun == [0, 0, 1, 1, 2, 3, 3]


def test_the_mean_of_cycles_is_an_even_one() -> None:
    network = nn.Conv3d(1, 1, 1)
    correction = Correction(network, CorrectionSettings(4))
    means, trusts = [], [correction.trust]
    for value in (10.0, 4.0, 1.0, 7.0):
        correction.begin_cycle({name: torch.full_like(t, value) for name, t in _of(network)})
        means.append(float(correction.tensors["weight"]))
        trusts.append(correction.trust)
    assert means == pytest.approx([10, 7, 5, 5.5])
    assert trusts == pytest.approx([1, 1 / 2, 1 / 3, LEAST_TRUST, LEAST_TRUST])


def _of(network: nn.Module) -> list[tuple[str, Tensor]]:
    return list(network.named_parameters())


def test_before_the_first_cycle_the_loss_is_that_of_the_labels() -> None:
    correction = Correction(small(), CorrectionSettings(2))
    loss, logits = torch.tensor(0.7), torch.zeros(1, 2, 2, 2, 2)
    image, labels = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2, dtype=torch.long)
    assert correction.corrected(loss, logits, image, labels) is loss
    correction.begin_cycle(correction.tensors)
    mixed = correction.corrected(loss, [logits, logits[..., :1]], image, labels)
    assert float(mixed) != pytest.approx(0.7)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    for number in (3, 9, 15):  # samples; two to a step
        with pytest.raises(KeyboardInterrupt):
            run(
                tmp_path / "cut",
                patches=Patches(interrupted_at=number),
                resume=number > 3,
            )
    found = run(tmp_path / "cut", resume=True)
    for ours, theirs in zip(found.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    stored = [read_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "cut")]
    assert [each.facts["cycles"] for each in stored if each] == [3, 3]
    assert all(
        torch.equal(stored[0].tensors[name], stored[1].tensors[name])  # type: ignore[union-attr]
        for name in stored[0].tensors  # type: ignore[union-attr]
        if name.startswith("correction.")
    )


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_it_changes_what_is_learned(ema: float, tmp_path: Path) -> None:
    plain, corrected = (run(tmp_path / str(cycles), cycles=cycles, ema=ema) for cycles in (0, 2))
    assert not all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(plain.parameters(), corrected.parameters(), strict=True)
    )
