"""Every backend gives the logits that torch gives in float32, for windows of any shape."""

import logging
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch

from medseg3d.device import Precision, automatic_precision
from medseg3d.inference.backends import BACKENDS, Eager
from medseg3d.inference.backends.openvino import OpenVINO, quiet_openvino
from medseg3d.inference.backends.registered import Backend, UnfitBackendError
from medseg3d.inference.backends.source import Source
from medseg3d.inference.recording import _Plain
from tests.networks.rows import ROWS

from .conftest import CPU, MakeSource, windows

CONVERTING = ("onnx", "openvino")
SHAPES = ((1, 2, 2, 3), (2, 3, 2, 2), (1, 2, 4, 2))
"""Windows in a batch, and their edges in multiples of the divisor."""

LARGE_STEP = 16
"""Divisor from which one multiple is a window large enough."""

UNCONVERTED = [
    # they read between voxels or choose nodes, which no recording of another library follows
    *product(("dunet", "graph_unet"), CONVERTING),
    # pools to a share of the size
    ("ynet_2d", "onnx"),
]
CONVERTED = [pair for pair in product(ROWS, CONVERTING) if pair not in UNCONVERTED]
SHALLOW = ("denseunet_2d", "denseunet_3d", "hdenseunet", "unet3d", "vnet")


def opened(name: str, source: Source, precision: Precision = "fp32") -> Backend:
    return BACKENDS[name].open(source, precision=precision, device=CPU, threads=1)


@pytest.mark.parametrize(("network", "backend"), CONVERTED)
def test_logits_are_those_of_torch(network: str, backend: str, make_source: MakeSource) -> None:
    source = make_source(network)
    ready, torchs = opened(backend, source), Eager(source.network(), device=CPU)
    assert (ready.backend, ready.precision, ready.divisor) == (backend, "fp32", torchs.divisor)
    for batch, *times in SHAPES:
        edges = [
            (2 if step < LARGE_STEP else 1) * n * step
            for n, step in zip(times, torchs.divisor, strict=True)
        ]
        image = windows(batch, 2, *edges)
        found, expected = ready(image), torchs(image)
        assert found.dtype == np.float32
        largest = max(1, np.abs(expected).max())
        differences = np.abs(found - expected) / largest
        # random deep networks amplify every rounding, but not everywhere
        assert np.median(differences) < 3e-4
        assert differences.max() < (3e-4 if network in SHALLOW else 3e-2)


@pytest.mark.parametrize(("network", "backend"), UNCONVERTED)
def test_what_cannot_be_converted_is_refused(
    network: str, backend: str, make_source: MakeSource
) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.filters), list(root.handlers))
    with pytest.raises(UnfitBackendError):
        opened(backend, make_source(network))
    assert (root.level, root.filters, root.handlers) == before


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("backend", CONVERTING)
def test_other_norms_are_converted_too(norm: str, backend: str, make_source: MakeSource) -> None:
    source = make_source(options={"norm": norm})
    image = windows(1, 2, 4, 8, 8)
    expected = Eager(source.network(), device=CPU)(image)
    np.testing.assert_allclose(opened(backend, source)(image), expected, atol=1e-4)


@pytest.mark.skipif(automatic_precision(CPU) != "bf16", reason="no bf16 in this processor")
@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_bf16_is_close_and_shares_the_model(backend: str, make_source: MakeSource) -> None:
    source = make_source()
    exact = opened(backend, source)
    fast = exact.twin("bf16")
    assert (exact.precision, fast.precision) == ("fp32", "bf16")
    image = windows(1, 2, 8, 8, 8)
    expected, found = exact(image).copy(), fast(image)
    assert found.dtype == np.float32
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())
    np.testing.assert_array_equal(exact(image), expected)


def test_threads_are_those_asked_for_and_only_while_it_computes(make_source: MakeSource) -> None:
    before = torch.get_num_threads()
    ready = BACKENDS["eager"].open(make_source(), precision="fp32", device=CPU, threads=before + 1)
    assert isinstance(ready, Eager)
    seen: list[int] = []
    ready.module.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    for backend in (ready, ready.twin("fp32")):
        backend(windows(1, 2, 8, 8, 8))
    assert seen == [before + 1, before + 1]
    assert torch.get_num_threads() == before


def test_openvino_takes_other_windows_than_the_plans_too(make_source: MakeSource) -> None:
    source = make_source()
    ready, torchs = opened("openvino", source), Eager(source.network(), device=CPU)
    for shape in ((1, 2, *source.bundle.plan.patch_size), (1, 2, 16, 8, 12), (1, 2, 8, 16, 8)):
        image = windows(*shape)
        np.testing.assert_allclose(ready(image), torchs(image), atol=1e-4)


def test_float32_of_openvino_is_not_bf16(make_source: MakeSource) -> None:
    ready = opened("openvino", make_source())
    assert isinstance(ready, OpenVINO)
    compiled = ready._request.get_compiled_model()
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


@pytest.mark.parametrize("backend", CONVERTING)
def test_logits_are_not_copied_and_windows_may_be_read_only(
    backend: str, make_source: MakeSource
) -> None:
    ready = opened(backend, make_source())
    image = windows(1, 2, 4, 8, 8)
    image.flags.writeable = False
    first = ready(image)
    kept = first.copy()
    again = ready(-image)
    assert np.shares_memory(first, again)
    assert not np.array_equal(again, kept)


def test_group_norms_of_several_channels_stay(make_source: MakeSource) -> None:
    norm, image = torch.nn.GroupNorm(2, 4), torch.randn(2, 4, 3, 3, 3)
    with _Plain():
        torch.testing.assert_close(norm(image), torch.nn.functional.group_norm(image, 2))


def test_openvino_is_imported_without_its_reporting() -> None:
    code = (
        "import sys\n"
        "from medseg3d.inference.backends.openvino import quiet_openvino\n"
        "assert 'openvino' not in sys.modules\n"
        "quiet_openvino()\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(telemetry_utils.tm.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "openvino.tools.ovc.telemetry_stub\n"
    assert quiet_openvino() is quiet_openvino()
