"""Several batches to one step: the same as one large batch, and as whole when interrupted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from medseg3d.training.budget import Budget
from medseg3d.training.history import History
from tests.training.small_runs import small_settings, train_small


class BrightVoxels(Dataset[dict[str, Any]]):
    """Patches whose label is 1 where the image is bright; may be interrupted at a sample."""

    def __init__(self, interrupted_at: int | None = None) -> None:
        self.interrupted_at = interrupted_at
        self.seen: list[int] = []

    def __getitem__(self, n: int) -> dict[str, Any]:
        if n == self.interrupted_at:
            raise KeyboardInterrupt
        self.seen.append(n)
        image = torch.randn(1, 6, 6, 6, generator=torch.Generator().manual_seed(n))
        return {"image": image, "labels": (image > 0.3).to(torch.uint8), "case": f"case_{n}"}

    def case_id(self, n: int) -> str:
        return f"case_{n}"


class Plain(nn.Module):
    """Two convolutions, with dropout and running means if wanted."""

    def __init__(self, *, restless: bool = False, interrupted_at: int | None = None) -> None:
        super().__init__()
        self.calls, self.interrupted_at = 0, interrupted_at
        noise = [nn.BatchNorm3d(4), nn.Dropout(0.2)] if restless else []
        layers = [nn.Conv3d(1, 4, 1), nn.LeakyReLU(), *noise, nn.Conv3d(4, 2, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits = self.layers(x)
        if self.calls == self.interrupted_at:
            raise KeyboardInterrupt
        return logits


def run(
    folder: Path,
    *,
    batch_size: int = 1,
    accumulate: int = 1,
    patches: BrightVoxels | None = None,
    restless: bool = False,
    interrupted_at: int | None = None,
    **more: Any,
) -> tuple[History, Plain]:
    torch.manual_seed(0)
    network = Plain(restless=restless, interrupted_at=interrupted_at)
    history = train_small(
        network,
        patches or BrightVoxels(),
        folder,
        small_settings(
            budget=Budget(steps=6),
            batch_size=batch_size,
            accumulate=accumulate,
            steps_per_epoch=2,
            validate_every=1,
            checkpoint_seconds=0,
        ),
        loss="cross_entropy",
        **more,
    )
    return history, network


def test_it_is_the_large_batch(tmp_path: Path) -> None:
    large, small = BrightVoxels(), BrightVoxels()
    expected, one = run(tmp_path / "one", batch_size=6, patches=large)
    found, other = run(tmp_path / "other", batch_size=2, accumulate=3, patches=small)
    assert large.seen[:36] == small.seen[:36] == list(range(36))
    assert [row["step"] for row in found.rows] == [2, 4, 6]
    for ours, theirs in zip(found.rows, expected.rows, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["learning_rate"] == theirs["learning_rate"]
    for ours, theirs in zip(other.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[History, Plain]:
    return run(tmp_path_factory.mktemp("whole"), batch_size=2, accumulate=2, restless=True)


@pytest.mark.parametrize(
    ("sample", "call"), [(8, None), (10, None), (11, None), (None, 5), (None, 6)]
)
def test_a_step_that_is_cut_is_done_again_as_a_whole(
    whole_run: tuple[History, Plain], tmp_path: Path, sample: int | None, call: int | None
) -> None:
    whole, network = whole_run
    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path / "cut",
            batch_size=2,
            accumulate=2,
            restless=True,
            patches=BrightVoxels(interrupted_at=sample),
            interrupted_at=call,
        )
    resumed, other = run(tmp_path / "cut", batch_size=2, accumulate=2, restless=True, resume=True)
    assert [row["loss"] for row in resumed.rows] == [row["loss"] for row in whole.rows]
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_a_loss_that_is_not_finite_names_the_cases_of_the_step(tmp_path: Path) -> None:
    class Poisoned(BrightVoxels):
        def __getitem__(self, n: int) -> dict[str, Any]:
            sample = super().__getitem__(n)
            sample["image"] *= torch.nan if n == 5 else 1
            return sample

    with pytest.raises(Exception, match=r"at step 1 on cases case_4, case_5;"):
        run(tmp_path, accumulate=4, patches=Poisoned())
