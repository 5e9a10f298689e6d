"""Devices and arithmetic: what is asked for is had or refused, never quietly replaced."""

import pytest
import torch

from medseg3d.device import autocast, automatic_precision, resolve_device, resolve_precision
from medseg3d.errors import ConfigError


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--device cuda:99: .* sees \d+ GPUs here"):
        resolve_device("cuda:99")


def test_auto_is_what_the_machine_has() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("able", "expected"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "fp32")],
)
def test_bf16_is_automatic_only_where_the_processor_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert automatic_precision(torch.device("cpu")) == expected


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a GPU"):
        resolve_precision("fp16", torch.device("cpu"))


def test_autocast_computes_in_what_it_says() -> None:
    x = torch.ones(2, 2)
    with autocast(torch.device("cpu"), "bf16"):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), "fp32"):
        assert (x @ x).dtype == torch.float32
