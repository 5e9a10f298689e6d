"""The network in OpenVINO, which computes convolutions near the processor's limit.

Reference:
    OpenVINO, https://docs.openvino.ai, measured with 2026.4.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from medseg3d.device import Precision
from medseg3d.inference.backends.cache import converted
from medseg3d.inference.backends.conversion import INPUT, OUTPUT, Run
from medseg3d.inference.backends.registered import BACKENDS, UnfitBackendError
from medseg3d.inference.backends.source import Source
from medseg3d.types import Size3

if TYPE_CHECKING:
    from torch import nn

    from medseg3d.device import Device

HINTS = {"fp32": "f32", "bf16": "bf16"}
TELEMETRY = "openvino_telemetry"


class Intermediate:
    """OpenVINO's own form of a network, an XML file with the weights beside it."""

    name = "openvino"
    suffixes: tuple[str, ...] = (".xml", ".bin")

    @property
    def version(self) -> str:
        """Version of OpenVINO."""
        return version("openvino")

    def convert(self, network: nn.Module, channels: int, example: Size3) -> Any:
        """An ``openvino.Model`` that shares the weights of the network."""
        from medseg3d.inference.recording import traced

        openvino = quiet_openvino()
        recorded = traced(network, channels, example)
        shape = openvino.PartialShape([-1, channels, -1, -1, -1])
        with root_logger_kept():
            model = openvino.convert_model(recorded, input=[(shape, openvino.Type.f32)])
        model.input(0).get_tensor().set_names({INPUT})
        model.output(0).get_tensor().set_names({OUTPUT})
        return model

    def save(self, model: Any, folder: Path, stem: str) -> None:
        """Write ``stem.xml`` and ``stem.bin``, in float32."""
        quiet_openvino().save_model(model, folder / f"{stem}.xml", compress_to_fp16=False)

    def load(self, folder: Path, stem: str) -> Any:
        """An ``openvino.Model`` whose weights are mapped from the file."""
        return _core().read_model(folder / f"{stem}.xml")

    def float32(self, model: Any, threads: int) -> Run:
        """The model, ready to compute in float32."""
        request = _compiled(model, "fp32", threads).create_infer_request()
        return lambda batch: _infer(request, batch)


@BACKENDS.register(
    "openvino",
    title="OpenVINO",
    devices=("cpu",),
    precisions=("fp32", "bf16"),
    speed={"fp32": 2.1, "bf16": 4.0},
    window_bytes={"fp32": 26, "bf16": 26},
    kept_bytes=17,
    auto=True,
    needs=("openvino",),
    extra="openvino",
)
class OpenVINO:
    """A network that OpenVINO has compiled for this processor.

    Compiled for one shape of windows it is a few percent faster, sooner at its best and 30 MB
    smaller than for any shape. So it begins with the plan's window; the first batch of another
    shape has it compiled for all, since one per shape would each hold the weights again.

    Args:
        model: An ``openvino.Model``.
        divisor: Windows it takes have edges that are multiples of these.
        window: Windows that are expected ``(i, j, k)``.
        precision: fp32 or bf16; OpenVINO takes fp32 where the processor has no bf16.
        threads: Processors to use.

    Raises:
        UnfitBackendError: If OpenVINO cannot compile it for this processor.
    """

    backend = "openvino"
    converter = Intermediate

    def __init__(
        self, model: Any, divisor: Size3, *, window: Size3, precision: Precision, threads: int
    ) -> None:
        self.divisor = divisor
        self._model = model
        self._window = window
        self._threads = threads
        self._shape: tuple[int, ...] | None = (1, _channels(model), *window)
        expected = model.clone()
        expected.reshape(list(self._shape))
        compiled = _compiled(expected, precision, threads)
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision: Precision = "bf16" if used == "bf16" else "fp32"
        self._request = compiled.create_infer_request()

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        precision: Precision,
        device: Device,  # noqa: ARG003 - always the CPU
        threads: int,
    ) -> Self:
        """Read the conversion of a bundle, or make it."""
        model, divisor = converted(source, Intermediate())
        window = source.bundle.plan.window
        return cls(model, divisor, window=window, precision=precision, threads=threads)

    def twin(self, precision: Precision) -> Self:
        """The same model compiled for another arithmetic."""
        return type(self)(
            self._model,
            self.divisor,
            window=self._window,
            precision=precision,
            threads=self._threads,
        )

    def __call__(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits ``(B, L, i, j, k)`` of windows ``(B, C, i, j, k)``, in OpenVINO's own memory."""
        if self._shape is not None and batch.shape != self._shape:
            self._shape = None
            compiled = _compiled(self._model, self.precision, self._threads)
            self._request = compiled.create_infer_request()
        return _infer(self._request, batch)


@cache
def quiet_openvino() -> Any:
    """The package, imported so that it sends nothing.

    Its import reports to its maker, if a second package for that is there, unless a file in
    the user's home forbids it. Without the second package it goes on without reporting; so it
    is hidden for the time of the import, in this process only.
    """
    hidden = "openvino" not in sys.modules and TELEMETRY not in sys.modules
    if hidden:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if hidden:
            del sys.modules[TELEMETRY]
    return openvino


_CONVERSION = threading.Lock()


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Undo what a conversion leaves in the root logger, one at a time: it hides all warnings."""
    root = logging.getLogger()
    with _CONVERSION:
        level, filters, handlers = root.level, root.filters.copy(), root.handlers.copy()
        try:
            yield
        finally:
            root.setLevel(level)
            root.filters, root.handlers = filters, handlers


@cache
def _core() -> Any:
    """The one entrance to OpenVINO that all models of this process share."""
    return quiet_openvino().Core()


def _compiled(model: Any, precision: Precision, threads: int) -> Any:
    hints = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # processes that share the processors would all pin alike
    }
    try:
        return _core().compile_model(model, "CPU", hints)
    except RuntimeError as error:
        raise UnfitBackendError(str(error).strip().splitlines()[-1][:200]) from error


def _channels(model: Any) -> int:
    """Image channels that a model takes."""
    return int(model.input(0).partial_shape[1].get_length())


def _infer(request: Any, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Compute without copying: the window is read and the logits are seen where they are."""
    windows = np.require(batch, np.float32, ["C", "W"])
    request.set_input_tensor(quiet_openvino().Tensor(windows, shared_memory=True))
    request.infer(share_outputs=True)
    return np.asarray(request.get_output_tensor().data)
