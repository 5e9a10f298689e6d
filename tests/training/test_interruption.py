"""Training that is stopped anywhere goes on as if nothing had happened."""

import contextlib
import errno
import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from medseg3d.errors import DataError, RunError, Terminated
from medseg3d.training import feed
from medseg3d.training.averaging import Averaging
from medseg3d.training.budget import Budget
from medseg3d.training.checkpoint import (
    LAST,
    PREVIOUS,
    has_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from medseg3d.training.course import Course
from medseg3d.training.history import History
from medseg3d.training.interrupts import Interrupts
from medseg3d.training.keeper import Keeper
from tests.training.small_runs import small_settings, stored, train_small

STEPS = 12
EPOCH = 4


def nothing(number: int) -> None:
    """No mischief."""


class Noise:
    """Patches whose label is 1 where the image is bright; ``mischief`` gets each number first."""

    def __init__(self, mischief: Callable[[int], None] = nothing) -> None:
        self.mischief = mischief

    def __getitem__(self, n: int) -> dict[str, Any]:
        self.mischief(n)
        image = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(n))
        return {"image": image, "labels": (image > 0.3).to(torch.uint8), "case": f"case_{n % 3}"}

    def case_id(self, n: int) -> str:
        return f"case_{n % 3}"


class Net(nn.Module):
    """Has all that a resumed run must bring back: weights, running statistics, dropout."""

    def __init__(self, mischief: Callable[[int], None] = nothing) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, 4, 1), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout(0.2), nn.Conv3d(4, 2, 1)
        )
        self.calls = 0
        self.mischief = mischief

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layers(x)
        self.calls += 1
        self.mischief(self.calls)
        return logits


def accuracy(network: nn.Module) -> list[float]:
    sample = Noise()[10_000]
    logits = network.eval()(sample["image"][None])
    network.train()
    return [float((logits.argmax(1) == sample["labels"]).float().mean())]


def run(
    folder: Path,
    *,
    in_network: Callable[[int], None] = nothing,
    in_patches: Callable[[int], None] = nothing,
    resume: bool = False,
    workers: int = 0,
    kept: list[float] | None = None,
    checkpoint_seconds: float = 1e9,
) -> tuple[History, Net]:
    torch.manual_seed(0)
    network = Net(in_network)
    history = train_small(
        network,
        Noise(in_patches),
        folder,
        small_settings(
            budget=Budget(steps=STEPS),
            steps_per_epoch=EPOCH,
            validate_every=1,
            workers=workers,
            checkpoint_seconds=checkpoint_seconds,
        ),
        validate=lambda network, _: accuracy(network),
        save_best=lambda _, score: kept.append(score) if kept is not None else None,
        resume=resume,
    )
    return history, network


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[History, Net]:
    return run(tmp_path_factory.mktemp("whole"))


def assert_same(found: tuple[History, Net], expected: tuple[History, Net]) -> None:
    for column in ("epoch", "step", "loss", "dice"):
        assert [row[column] for row in found[0].rows] == [row[column] for row in expected[0].rows]
    ours, theirs = found[1].state_dict(), expected[1].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def strike(at: int, number: signal.Signals) -> Callable[[int], None]:
    def mischief(count: int) -> None:
        if count == at:
            os.kill(os.getpid(), number)

    return mischief


@pytest.mark.parametrize(
    ("at", "step", "number", "workers"),
    [
        (1, None, signal.SIGINT, 0),  # nothing to go on from yet
        (3, 2, signal.SIGINT, 0),  # in the middle of the first epoch
        (5, 4, signal.SIGTERM, 0),  # in the validation at its end
        (7, 5, signal.SIGUSR1, 0),
        (8, 6, signal.SIGTERM, 1),
        (15, 12, signal.SIGINT, 0),  # in the last validation
    ],
)
def test_a_signal_in_a_step_or_a_validation(
    tmp_path: Path,
    whole: tuple[History, Net],
    at: int,
    step: int | None,
    number: signal.Signals,
    workers: int,
) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt) as caught:
        run(tmp_path, in_network=strike(at, number), workers=workers)
    assert (caught.type is Terminated) == (number == signal.SIGTERM)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    found = read_checkpoint(tmp_path / "checkpoints")
    assert (found.facts["step"] if found else None) == (step or 0)
    assert_same(run(tmp_path, resume=True, workers=workers), whole)


@pytest.mark.parametrize("method", ["update", "swap"])
def test_a_signal_between_the_halves_of_a_step_waits_for_the_second(
    tmp_path: Path, whole: tuple[History, Net], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    plain, calls = getattr(Averaging, method), []

    def struck(self: Averaging) -> None:
        calls.append(1)
        strike(2, signal.SIGTERM)(len(calls))
        plain(self)

    with monkeypatch.context() as patch:
        patch.setattr(Averaging, method, struck)
        with pytest.raises(Terminated):
            run(tmp_path, resume=False)
    assert_same(run(tmp_path, resume=True), whole)


def test_an_interrupt_that_somebody_swallows_comes_again(tmp_path: Path) -> None:
    def swallow(count: int) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            strike(3, signal.SIGINT)(count)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, in_network=swallow)
    assert stored(tmp_path).facts["step"] == 3


def test_a_second_signal_does_not_wait() -> None:
    with Interrupts() as interrupts:
        interrupts.hold()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the same wish
        interrupts._came_at -= 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert not interrupts.is_whole
        with pytest.raises(KeyboardInterrupt):
            interrupts.release()


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            interrupts.check()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_finished_training_is_not_repeated(tmp_path: Path, whole: tuple[History, Net]) -> None:
    run(tmp_path)
    calls: list[int] = []
    assert_same(run(tmp_path, resume=True, in_network=calls.append), whole)
    assert not calls


def test_no_worker_outlives_the_training(tmp_path: Path) -> None:
    process_ids = tmp_path / "process_ids"
    process_ids.mkdir()

    def note(n: int) -> None:
        (process_ids / str(os.getpid())).touch()

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, in_patches=note, in_network=strike(5, signal.SIGINT), workers=2)
    others = [int(path.name) for path in process_ids.iterdir() if path.name != str(os.getpid())]
    assert others
    for process_id in others:
        assert (
            not Path(f"/proc/{process_id}/stat").exists()
            or " Z " in Path(f"/proc/{process_id}/stat").read_text()
        )


def in_a_worker(at: int, act: Callable[[], object]) -> Callable[[int], None]:
    def mischief(n: int) -> None:
        if n == at and get_worker_info() is not None:
            act()

    return mischief


def refuse() -> None:
    raise DataError("case case_1: cached case x is damaged; delete that folder")


def run_out() -> None:
    raise MemoryError("Unable to allocate 9 GiB")


@pytest.mark.filterwarnings(  # torch opens files to see whether it can; the signal may come there
    "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            RunError,
            r"^data worker \d+ was killed \(Killed\) while it prepared patches of cases case_\d, "
            r".*memory ran out; give --workers 0",
        ),
        (
            lambda: os.kill(os.getpid(), signal.SIGBUS),
            RunError,
            r"was killed \(Bus error\) .* shared memory .* is full; give --workers 0",
        ),
        (lambda: os._exit(3), RunError, r"data worker \d+ died with exit code 3 while .*; give"),
        (refuse, DataError, r"^case case_1: cached case x is damaged; delete that folder"),
        (run_out, RunError, r"memory ran out in a data worker while .* Unable to allocate 9 GiB"),
    ],
)
def test_a_worker_that_fails_is_told_in_one_sentence(
    tmp_path: Path, act: Callable[[], object], error: type[Exception], message: str
) -> None:
    (tmp_path / "checkpoints").mkdir()
    best = tmp_path / "checkpoints" / "best.medseg3d"
    best.touch()
    with pytest.raises(error, match=message) as caught:
        run(tmp_path, in_patches=in_a_worker(13, act), workers=1)
    assert str(caught.value).endswith(
        f"; the best model so far is kept in {best}; --resume goes on from the last checkpoint"
    )
    assert "\n" not in str(caught.value)
    assert 0 < stored(tmp_path).facts["step"] <= 6


def test_a_worker_that_fails_is_found_among_other_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=signal.pause, daemon=True) for _ in range(8)]
    for process in others:
        process.start()
    try:
        with pytest.raises(RunError, match="died with exit code 3"):
            run(tmp_path, in_patches=in_a_worker(13, partial(os._exit, 3)), workers=1)
    finally:
        for process in others:
            process.kill()
            process.join()


def test_a_worker_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LONGEST_WAIT", 1)
    with pytest.raises(RunError, match=r"no patch came .* cases case_0.*give --workers 0"):
        run(tmp_path, in_patches=in_a_worker(12, signal.pause), workers=1)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: "
            "you tried to allocate 99 bytes."
        ),
        MemoryError("Unable to allocate 99 GiB for an array"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 99 GiB."),
    ],
)
def test_too_little_memory_names_the_cases_and_the_remedy(
    tmp_path: Path, whole: tuple[History, Net], error: Exception
) -> None:
    def fail(count: int) -> None:
        if count == 7:
            raise error

    with pytest.raises(
        RunError, match=r"memory ran out while training on cases case_\d, .*99"
    ) as told:
        run(tmp_path, in_network=fail)
    assert "--set batch_size=1" in str(told.value)
    assert "batch_size or patch_size in that file" in str(told.value)
    on_gpu = isinstance(error, torch.OutOfMemoryError)
    assert ("this process may hold" in str(told.value)) != on_gpu, "that is the machine's memory"
    assert_same(run(tmp_path, resume=True), whole)


def test_a_gradient_that_is_not_finite_leaves_the_weights_before_it(tmp_path: Path) -> None:
    def spoil(network: nn.Module) -> None:
        next(network.parameters()).register_hook(lambda grad: grad * torch.nan)

    def fail(count: int) -> None:
        if count == 7:
            spoil(networks[0])

    networks: list[Net] = []
    plain = Net.__init__

    def noted(self: Net, *arguments: Any) -> None:
        plain(self, *arguments)
        networks.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Net, "__init__", noted)
        with pytest.raises(RunError, match=r"the gradient became nan at step 5 on cases case_\d"):
            run(tmp_path, in_network=fail)
    found = read_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    assert found.facts["step"] == 5
    assert all(tensor.isfinite().all() for tensor in found.tensors.values())


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, whole: tuple[History, Net], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, in_network=strike(8, signal.SIGINT), checkpoint_seconds=0)
    last = tmp_path / "checkpoints" / LAST
    last.write_bytes(last.read_bytes()[:-1] + b"!")
    assert_same(run(tmp_path, resume=True), whole)
    assert f"checkpoint {last} is damaged (its SHA-256 differs)" in caplog.text


def test_a_damaged_checkpoint_does_not_push_out_the_sound_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, in_network=strike(8, signal.SIGINT), checkpoint_seconds=0)
    folder = tmp_path / "checkpoints"
    sound = (folder / PREVIOUS).read_bytes()
    (folder / LAST).write_bytes(b"damaged")
    run(tmp_path, resume=True)  # one checkpoint, at the end
    assert stored(tmp_path).facts["step"] == STEPS
    assert (folder / PREVIOUS).read_bytes() == sound


def test_a_checkpoint_makes_way_for_one_that_is_safe_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")  # some file systems say so as late as this

    assert not has_checkpoint(tmp_path)
    write_checkpoint(tmp_path, {}, {"step": 1})
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        write_checkpoint(tmp_path, {}, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
    (tmp_path / LAST).rename(tmp_path / PREVIOUS)
    assert has_checkpoint(tmp_path), "killed between the two renamings"


def test_a_run_without_a_loss_scaler_goes_on_with_one(tmp_path: Path) -> None:
    run(tmp_path)
    found = stored(tmp_path)
    network = Net()
    trainer: Any = SimpleNamespace(
        precision_plugin=MixedPrecision("16-mixed", "cpu"),
        optimizers=[torch.optim.AdamW(network.parameters())],
    )
    keeper = Keeper(tmp_path, Course(found.facts), found, pause=1.0)
    keeper.begin(trainer, network, Averaging(network, 0.9, Interrupts()))
    weights = network.state_dict()
    assert all(torch.equal(found.tensors[f"network.{name}"], weights[name]) for name in weights)
    scale = trainer.precision_plugin.state_dict()["scale"]
    assert scale == torch.amp.GradScaler("cpu").state_dict()["scale"]


def test_a_slow_disk_gets_fewer_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr("medseg3d.training.keeper.write_checkpoint", lambda *_: saved.append(1))
    monkeypatch.setattr("medseg3d.training.keeper.WRITING_SHARE", 1e12)
    run(tmp_path / "quick", checkpoint_seconds=0)
    assert len(saved) == STEPS
    saved.clear()
    monkeypatch.setattr("medseg3d.training.keeper.WRITING_SHARE", 1e-12)
    run(tmp_path / "slow", checkpoint_seconds=0)
    assert len(saved) == 2


def test_batches_without_shared_memory_are_the_same(
    tmp_path: Path, whole: tuple[History, Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "has_shared_memory", lambda *_: False)
    assert_same(run(tmp_path, workers=1), whole)


def test_no_more_workers_than_processors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feed, "num_processors", lambda: 2)
    assert [feed.allowed_workers(wanted) for wanted in (0, 2, 9)] == [0, 2, 2]
    assert caplog.messages == ["only 2 of 9 workers, one per processor"]


def test_too_little_shared_memory_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(feed, "SHARED_MEMORY", tmp_path)
    for free, expected in ((10_000, True), (1_000, False)):  # a sample has 4^3 * (4 + 1) bytes
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(feed.shutil, "disk_usage", lambda _, usage=usage: usage)
        assert feed.has_shared_memory(Noise(), 2, 1) == expected
