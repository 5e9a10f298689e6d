"""Devices and arithmetic: what is asked for is had or refused, never quietly replaced."""

from pathlib import Path

import pytest
import torch

from medseg3d import device
from medseg3d.device import (
    Processor,
    autocast,
    automatic_precision,
    find_device,
    resolve_device,
    resolve_precision,
    torch_device,
)
from medseg3d.errors import ConfigError


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--device cuda:99: .* sees \d+ GPUs here"):
        resolve_device("cuda:99")


def test_auto_is_what_the_machine_has() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_device_without_torch_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "GPU_DRIVERS", ())
    assert find_device("auto") == find_device("cpu") == Processor()
    assert str(torch_device(find_device("cpu"))) == str(find_device("cpu")) == "cpu"
    with pytest.raises(ConfigError, match="cuda:99"):
        find_device("cuda:99")
    monkeypatch.setattr(device, "GPU_DRIVERS", ("/",))
    assert find_device("auto") == resolve_device("auto")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("flags : fpu avx512_bf16 x\n", "bf16"),
        ("a : b\nflags\t: amx_bf16\n", "bf16"),
        ("Features : fp bf16\n", "bf16"),
        ("flags : avx2 avx512f\n", "fp32"),
        ("", "fp32"),
    ],
)
def test_bf16_is_automatic_only_where_the_processor_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str, expected: str
) -> None:
    (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(device, "CPU_FACTS", tmp_path / "cpuinfo")
    assert automatic_precision(torch.device("cpu")) == automatic_precision(Processor()) == expected


@pytest.mark.parametrize(
    ("able", "expected"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": False}, "fp32"), ({"avx2": True}, "fp32")],
)
def test_where_the_system_tells_nothing_torch_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, able: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(device, "CPU_FACTS", tmp_path / "absent")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert automatic_precision(torch.device("cpu")) == expected


def test_torch_and_the_file_agree_here() -> None:
    able = torch.cpu.get_capabilities()
    has = any(able.get(name) for name in device.BF16_FLAGS)
    assert automatic_precision(Processor()) == ("bf16" if has else "fp32")


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a GPU"):
        resolve_precision("fp16", torch.device("cpu"))


def test_autocast_computes_in_what_it_says() -> None:
    x = torch.ones(2, 2)
    with autocast(torch.device("cpu"), "bf16"):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), "fp32"):
        assert (x @ x).dtype == torch.float32
