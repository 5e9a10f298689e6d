"""Which backend and arithmetic are taken, and one sentence when one cannot be."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from medseg3d.device import Precision
from medseg3d.errors import ConfigError, RunError
from medseg3d.inference.backends import BACKENDS, compiled, open_network, opening, window_bytes
from medseg3d.inference.backends.compiled import Compiled
from medseg3d.inference.backends.openvino import OpenVINO
from medseg3d.inference.backends.registered import UnfitBackendError
from medseg3d.inference.backends.source import Source
from medseg3d.inference.evidence import Trial
from medseg3d.inference.network import WindowNetwork

from .conftest import CPU, MakeSource, windows

INSTALLED = {"openvino", "onnx", "onnxruntime"}


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the arithmetic in which this processor is fast."""

    def has(precision: Precision) -> None:
        monkeypatch.setattr("medseg3d.device.automatic_precision", lambda _: precision)

    return has


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Backends are opened in name only; what was opened, and in which arithmetic."""
    asked: list[tuple[str, str]] = []

    class Fake:
        divisor = (1, 1, 1)

        def __init__(self, name: str, precision: Precision) -> None:
            self.backend, self.precision = name, precision
            asked.append((name, precision))

        def twin(self, precision: Precision) -> "Fake":
            return Fake(self.backend, precision)

    for name in BACKENDS:
        monkeypatch.setattr(
            BACKENDS[name], "open", lambda *_, name=name, **how: Fake(name, how["precision"])
        )
    return asked


def without(monkeypatch: pytest.MonkeyPatch, *absent: str) -> None:
    there = INSTALLED - set(absent)
    monkeypatch.setattr(opening, "find_spec", lambda name: name if name in there else None)


def ready(source: Source, **options: Any) -> WindowNetwork:
    return open_network(source.path, source.bundle, device=CPU, threads=1, **options)


@pytest.mark.parametrize(
    ("fast", "absent", "expected"),
    [
        ("bf16", (), ("openvino", "bf16")),
        ("fp32", (), ("openvino", "fp32")),
        ("bf16", ("openvino",), ("eager", "bf16")),
        ("fp32", ("openvino",), ("onnx", "fp32")),
        ("fp32", ("openvino", "onnxruntime"), ("eager", "fp32")),
        ("fp32", ("openvino", "onnx"), ("eager", "fp32")),
    ],
)
def test_auto_takes_the_fastest_that_is_installed(
    fast: Precision,
    absent: tuple[str, ...],
    expected: tuple[str, str],
    make_source: MakeSource,
    opens: list[tuple[str, str]],
    processor: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor(fast)
    without(monkeypatch, *absent)
    found = ready(make_source(dice_changes={"bf16": 0.0}))
    assert (found.backend, found.precision) == expected
    assert opens == [expected]


@pytest.mark.parametrize(
    ("fast", "backend", "precision", "absent", "expected"),
    [
        ("bf16", "auto", "auto", (), 26),
        ("bf16", "auto", "auto", ("openvino",), 52),  # it may come to fp32
        ("bf16", "auto", "bf16", ("openvino",), 18),
        ("fp32", "auto", "auto", ("openvino",), 32),
        ("fp32", "eager", "bf16", (), 18),
        ("bf16", "onnx", "auto", (), 32),
        ("bf16", "auto", "fp16", (), 52),  # which only a worker elsewhere may have
    ],
)
def test_the_memory_of_windows_is_that_of_what_is_likely_opened(
    fast: Precision,
    backend: str,
    precision: str,
    absent: tuple[str, ...],
    expected: int,
    processor: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor(fast)
    without(monkeypatch, *absent)
    assert window_bytes(backend, precision, CPU) == expected
    assert window_bytes(backend, precision, torch.device("cuda")) == opening.BESIDE_GPU


def test_every_backend_has_the_memory_of_its_exact_arithmetic() -> None:
    for name in BACKENDS:
        facts = BACKENDS.facts(name)
        assert facts["window_bytes"].keys() <= {*facts["precisions"]}
        assert facts["window_bytes"]["fp32"] >= max(facts["window_bytes"].values())


@pytest.mark.parametrize(
    ("changes", "precision", "expected"),
    [
        ({"bf16": 0.0005}, "auto", ["bf16"]),
        ({"bf16": -0.0005}, "auto", ["bf16"]),
        ({"bf16": 0.002}, "auto", ["fp32"]),
        ({"bf16": -0.002}, "auto", ["fp32"]),
        ({"bf16": 0.002}, "bf16", ["bf16"]),
        ({"bf16": 0.0005}, "fp32", ["fp32"]),
        ({}, "auto", ["fp32", "bf16"]),
        ({}, "bf16", ["bf16"]),
    ],
)
def test_the_verdict_of_the_bundle_decides(
    changes: dict[str, float],
    precision: str,
    expected: list[str],
    make_source: MakeSource,
    opens: list[tuple[str, str]],
    processor: Any,
) -> None:
    processor("bf16")
    found = ready(make_source(dice_changes=changes), precision=precision)
    assert [each for _, each in opens] == expected
    assert isinstance(found, Trial) == (len(expected) == 2)


def test_onnx_that_has_no_bf16_is_exact_unless_bf16_is_asked_for(
    make_source: MakeSource, opens: list[tuple[str, str]], processor: Any
) -> None:
    processor("bf16")
    assert ready(make_source(), backend="onnx").precision == "fp32"
    assert opens == [("onnx", "fp32")]
    with pytest.raises(ConfigError, match="--backend onnx does not compute in bf16"):
        ready(make_source(), backend="onnx", precision="bf16")


@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_a_named_backend_that_is_missing_is_told_in_one_sentence(
    name: str, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "openvino", "onnxruntime")
    with pytest.raises(ConfigError) as error:
        ready(make_source(), backend=name)
    module = {"openvino": "openvino", "onnx": "onnxruntime"}[name]
    assert str(error.value) == (
        f"--backend {name} needs {module}, which this Python does not have; install with "
        f'pip install "medseg3d[{name}]", or use --backend auto'
    )


def test_unknown_backends_and_wrong_devices_are_told(make_source: MakeSource) -> None:
    with pytest.raises(ConfigError, match="unknown backend 'openvin'; did you mean openvino"):
        ready(make_source(), backend="openvin")
    source = make_source()
    with pytest.raises(ConfigError, match="does not compute on cuda; give --device cpu"):
        open_network(
            source.path,
            source.bundle,
            backend="openvino",
            precision="fp32",
            device=torch.device("cuda"),
        )


@pytest.mark.parametrize("backend", ["auto", "openvino"])
@pytest.mark.parametrize("error", [UnfitBackendError("no rule for odd"), ImportError("broken")])
def test_a_network_that_cannot_be_converted_falls_back_with_one_warning(
    backend: str,
    error: Exception,
    make_source: MakeSource,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(OpenVINO, "open", fail)
    without(monkeypatch, "onnx")
    with caplog.at_level(logging.WARNING):
        found = ready(make_source(), backend=backend, precision="fp32")
    assert found.backend == "eager"
    assert caplog.messages == [f"backend openvino cannot be used here ({error}), so eager is"]
    assert found(windows(1, 2, 4, 8, 8)).shape == (1, 3, 4, 8, 8)


def test_a_missing_compiler_is_told_in_one_sentence(
    make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InvalidCxxCompiler(Exception):  # noqa: N818 - torch calls it so
        pass

    def failing(*_: Any, **__: Any) -> None:
        inner = RuntimeError("backend inductor raised")
        inner.inner_exception = InvalidCxxCompiler("No working C++ compiler")  # type: ignore[attr-defined]
        raise inner

    monkeypatch.setattr(torch, "compile", lambda *_, **__: failing)
    with pytest.raises(
        RunError, match=r"^--backend compile needs a C\+\+ compiler.*install g\+\+,"
    ):
        ready(make_source(), backend="compile", precision="fp32")
    told = compiled._told(ValueError("odd shape\nlong trace"))
    assert told == "torch cannot compile this network here (odd shape); use --backend auto"


def test_compiling_changes_nothing_but_the_speed(
    make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **__: plain(f, backend="eager", dynamic=False))
    source = make_source()
    found = ready(source, backend="compile", precision="fp32")
    assert isinstance(found, Compiled)
    assert (found.backend, found.divisor) == ("compile", (4, 4, 4))
    expected = ready(source, backend="eager", precision="fp32")
    for shape in ((1, 2, 4, 8, 8), (2, 2, 8, 8, 4)):
        image = windows(*shape)
        np.testing.assert_allclose(found(image), expected(image), atol=1e-5)


def test_of_many_shapes_the_last_are_computed_by_eager_which_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counted, plain = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **__: plain(f, backend=counted, dynamic=False))
    monkeypatch.setattr(compiled, "MOST_SHAPES", 2)
    images = [windows(1, 2, 2, 2, edge) for edge in range(2, 6)]
    for _ in range(5):  # together more programs than torch keeps by default
        module = torch.nn.Conv3d(2, 3, 1)
        found = Compiled(module, device=CPU, precision="fp32", threads=1)
        for image in [*images, images[0]]:
            expected = module(torch.from_numpy(image)).detach().numpy()
            np.testing.assert_allclose(found(image), expected, atol=1e-5)
        assert found.backend == "compile, eager"
    assert counted.frame_count <= 5 * 2
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [text[:43] for text in told] == ["windows of 2 x 2 x 4 and of further shapes "] * 5
