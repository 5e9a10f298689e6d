"""Conversions are made once, noticed when damaged, and never in the way."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medseg3d.bundle import save_bundle
from medseg3d.errors import ModelError
from medseg3d.inference.backends import cache, conversion
from medseg3d.inference.backends.conversion import Run
from medseg3d.inference.backends.onnx import ONNX
from medseg3d.inference.backends.openvino import OpenVINO
from medseg3d.inference.backends.registered import UnfitBackendError
from medseg3d.inference.backends.source import Source
from medseg3d.io.atomic import half_made
from medseg3d.types import Size3

from .conftest import CPU, MakeSource, windows


class Counting:
    """Keeps a number instead of a network."""

    name = "counting"
    suffixes: tuple[str, ...] = (".txt",)
    version = "1.0"

    def __init__(self) -> None:
        self.made = 0

    def convert(self, network: nn.Module, channels: int, example: Size3) -> str:  # noqa: ARG002
        self.made += 1
        self.network = network
        return f"made {self.made}"

    def save(self, model: str, folder: Path, stem: str) -> None:
        (folder / f"{stem}.txt").write_text(model)

    def load(self, folder: Path, stem: str) -> str:
        return (folder / f"{stem}.txt").read_text()

    def float32(self, model: str, threads: int) -> Run:  # noqa: ARG002
        return lambda batch: self.network(torch.from_numpy(batch)).detach().numpy()


@pytest.fixture
def source(make_source: MakeSource) -> Source:
    return make_source()


@pytest.fixture
def counting() -> Counting:
    return Counting()


def fresh(source: Source) -> Source:
    """The same file, as another process opens it."""
    return Source(source.path, source.bundle)


def kept(source: Source) -> Path:
    [folder] = source.path.with_name("model.medseg3d.cache").iterdir()
    return folder


def test_a_conversion_is_made_once_and_the_network_then_not_built(
    source: Source, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.converted(source, counting) == ("made 1", (4, 4, 4))
    monkeypatch.setattr(Source, "network", lambda _: pytest.fail("built"))
    assert cache.converted(fresh(source), counting) == ("made 1", (4, 4, 4))
    assert sorted(path.name for path in kept(source).iterdir()) == ["conversion.json", "model.txt"]
    assert [path.name for path in kept(source).parent.iterdir()] == [kept(source).name]


def test_scores_leave_it_valid_but_weights_and_versions_do_not(
    source: Source, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.converted(source, counting)
    scored = source.bundle.model_copy(update={"dice_changes": {"bf16": 0.0001}})
    network = source.network()
    save_bundle(source.path, scored, network)
    assert cache.converted(Source(source.path, scored), counting)[0] == "made 1"
    next(network.parameters()).data += 1
    save_bundle(source.path, scored, network)
    assert cache.converted(Source(source.path, scored), counting)[0] == "made 2"
    monkeypatch.setattr(Counting, "version", "1.1")
    assert cache.converted(Source(source.path, scored), counting)[0] == "made 3"


def damage(folder: Path, how: str) -> None:
    model, manifest = folder / "model.txt", folder / "conversion.json"
    if how == "changed":
        model.write_text("made X")
    elif how == "truncated":
        model.write_text("mad")
    elif how == "absent":
        model.unlink()
    elif how == "more":
        (folder / "other.txt").write_text("what?")
    elif how == "empty manifest":
        manifest.write_text("")
    elif how == "no manifest":
        manifest.unlink()
    elif how == "a list":
        manifest.write_text("[1, 2]")
    elif how == "a file":
        shutil.rmtree(folder)
        folder.write_text("in the way")
    else:
        facts = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(facts | {"divisor": how}))


@pytest.mark.parametrize(
    "how",
    ["changed", "truncated", "absent", "more", "empty manifest", "no manifest", "a list", "2, 4"],
)
def test_a_damaged_conversion_is_replaced_in_silence(
    how: str, source: Source, counting: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    cache.converted(source, counting)
    damage(kept(source), how)
    assert cache.converted(fresh(source), counting) == ("made 2", (4, 4, 4))
    assert cache.converted(fresh(source), counting) == ("made 2", (4, 4, 4))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(list(kept(source).iterdir())) == 2


def test_what_cannot_be_written_beside_the_model_goes_to_the_users_cache(
    source: Source, counting: Counting, home: Path
) -> None:
    source.path.with_name("model.medseg3d.cache").write_text("in the way")
    assert cache.converted(source, counting)[0] == "made 1"
    assert len(list((home / ".cache" / "medseg3d").iterdir())) == 1
    assert cache.converted(fresh(source), counting)[0] == "made 1"


def test_a_file_in_its_place_sends_it_to_the_users_cache(
    source: Source, counting: Counting, home: Path
) -> None:
    cache.converted(source, counting)
    damage(kept(source), "a file")
    assert cache.converted(fresh(source), counting)[0] == "made 2"
    assert cache.converted(fresh(source), counting)[0] == "made 2"
    assert len(list((home / ".cache" / "medseg3d").iterdir())) == 1


@pytest.mark.parametrize("error", [OSError("full"), RuntimeError("cannot write")])
def test_without_any_folder_it_stays_in_memory(
    error: Exception,
    source: Source,
    counting: Counting,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: Counting, model: str, folder: Path, stem: str) -> None:
        (folder / "model.txt").write_text("half")
        raise error

    monkeypatch.setattr(Counting, "save", full)
    assert cache.converted(source, counting) == ("made 1", (4, 4, 4))
    assert cache.converted(fresh(source), counting) == ("made 2", (4, 4, 4))
    assert not list(source.path.with_name("model.medseg3d.cache").iterdir())
    assert not list((home / ".cache" / "medseg3d").iterdir())


def test_a_damaged_bundle_is_refused_although_its_conversion_is_there(
    source: Source, counting: Counting
) -> None:
    cache.converted(source, counting)
    content = bytearray(source.path.read_bytes())
    content[-400] ^= 1
    source.path.write_bytes(content)
    with pytest.raises(ModelError, match="does not match its SHA-256"):
        cache.converted(fresh(source), counting)


def test_leftovers_of_killed_processes_go(source: Source, counting: Counting) -> None:
    folder = cache.cache_folder(source.path)
    made_here = half_made(folder / "conversion")
    made_here.mkdir(parents=True)
    make = "from medseg3d.io.atomic import half_made; import pathlib, sys; "
    make += "half_made(pathlib.Path(sys.argv[1])).mkdir()"
    subprocess.run([sys.executable, "-c", make, folder / "conversion"], check=True)
    (left,) = set(folder.iterdir()) - {made_here}
    cache.converted(source, counting)
    assert made_here.is_dir(), "this process is still at work"
    assert not left.exists()


@pytest.mark.parametrize("kind", [OpenVINO, ONNX])
def test_a_real_conversion_is_read_rebuilt_and_works_in_memory(
    kind: Any, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = windows(1, 2, 4, 8, 8)

    def logits() -> Any:
        ready = kind.open(fresh(source), precision="fp32", device=CPU, threads=1)
        return ready(image).copy()

    first = logits()
    largest = max(kept(source).iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-100])
    np.testing.assert_array_equal(logits(), first)
    with monkeypatch.context() as patch:
        patch.setattr(Source, "network", lambda _: pytest.fail("built"))
        np.testing.assert_array_equal(logits(), first)
    monkeypatch.setattr(cache, "_places", lambda _: iter(()))
    np.testing.assert_array_equal(logits(), first)


def test_a_conversion_that_computes_something_else_is_refused(
    source: Source, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counting, "float32", lambda *_, **__: lambda batch: batch[:, :1] * 0)
    with pytest.raises(UnfitBackendError, match=r"it makes logits \(1, 1, .* torch makes \(1, 3, "):
        cache.converted(source, counting)
    wrong = source.network().eval()

    def off(self: Counting, model: str, threads: int) -> Run:
        return lambda batch: wrong(torch.from_numpy(batch)).detach().numpy() + 0.1

    monkeypatch.setattr(Counting, "float32", off)
    with pytest.raises(
        UnfitBackendError, match=r"differ from torch's by up to 0\.\d+ of the largest"
    ):
        cache.converted(source, counting)
    monkeypatch.setattr(Counting, "convert", lambda *_: 1 / 0)
    with pytest.raises(UnfitBackendError, match=r"^division by zero$"):
        cache.converted(source, counting)
    assert not source.path.with_name("model.medseg3d.cache").exists()


def test_infinite_logits_differ() -> None:
    network = nn.Identity()
    batch = conversion.probe(1, (2, 2, 2))
    assert conversion.expect_equal(network, lambda windows: windows, batch) == 0
    with pytest.raises(UnfitBackendError, match="by up to nan"):
        conversion.expect_equal(network, lambda windows: windows * np.nan, batch)
