"""The network in ONNX Runtime, which runs on nearly every machine.

Reference:
    ONNX, https://onnx.ai; ONNX Runtime, https://onnxruntime.ai.
"""

from __future__ import annotations

import io
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from medseg3d.device import Precision
from medseg3d.inference.backends.cache import converted
from medseg3d.inference.backends.conversion import INPUT, OUTPUT, Run, probe
from medseg3d.inference.backends.registered import BACKENDS, UnfitBackendError
from medseg3d.inference.backends.source import Source
from medseg3d.types import Size3

if TYPE_CHECKING:
    from torch import nn

    from medseg3d.device import Device

OPSET = 17
"""Version of the operators; readers since 2022 know it, and it has all that networks need."""

ONLY_ERRORS = 3


class Exchange:
    """The open format ONNX, one file with the weights inside."""

    name = "onnx"
    suffixes: tuple[str, ...] = (".onnx",)

    @property
    def version(self) -> str:
        """Version of ONNX Runtime."""
        return version("onnxruntime")

    def convert(self, network: nn.Module, channels: int, example: Size3) -> bytes | Path:
        """The content of the file.

        Torch's older exporter is used: the newer one fixes the number of slices of some
        networks, and needs one package more.
        """
        import torch

        from medseg3d.inference.recording import traced

        recorded = traced(network, channels, example)
        axes = {0: "batch", 2: "i", 3: "j", 4: "k"}
        file = io.BytesIO()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                recorded,
                (torch.from_numpy(probe(channels, example)),),
                file,  # type: ignore[arg-type] # a file works too
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: axes, OUTPUT: axes},
            )
        return file.getvalue()

    def save(self, model: bytes | Path, folder: Path, stem: str) -> None:
        """Write ``stem.onnx``."""
        content = model.read_bytes() if isinstance(model, Path) else model
        (folder / f"{stem}.onnx").write_bytes(content)

    def load(self, folder: Path, stem: str) -> bytes | Path:
        """The file, which the session reads itself, without a copy in memory."""
        return folder / f"{stem}.onnx"

    def float32(self, model: bytes | Path, threads: int) -> Run:
        """The model, ready to compute."""
        session = _session(model, threads)
        return lambda batch: np.asarray(session.run([OUTPUT], {INPUT: batch})[0])


@BACKENDS.register(
    "onnx",
    title="ONNX Runtime",
    devices=("cpu",),
    precisions=("fp32",),
    speed={"fp32": 1.2},
    window_bytes={"fp32": 32},
    kept_bytes=32,
    auto=True,
    needs=("onnx", "onnxruntime"),
    extra="onnx",
)
class ONNX:
    """A network that ONNX Runtime computes in float32, for windows of any shape.

    Args:
        model: An ONNX file, or its content.
        divisor: Windows it takes have edges that are multiples of these.
        num_labels: Logit channels ``L``.
        threads: Processors to use.
    """

    backend = "onnx"
    converter = Exchange
    precision: Precision = "fp32"

    def __init__(
        self, model: bytes | Path, divisor: Size3, *, num_labels: int, threads: int
    ) -> None:
        self.divisor = divisor
        self._session = _session(model, threads)
        self._binding = self._session.io_binding()
        self._num_labels = num_labels
        self._logits = np.empty(0, dtype=np.float32)

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        precision: Precision,  # noqa: ARG003 - always float32
        device: Device,  # noqa: ARG003 - always the CPU
        threads: int,
    ) -> Self:
        """Read the conversion of a bundle, or make it."""
        num_labels = source.bundle.plan.num_labels
        return cls(*converted(source, Exchange()), num_labels=num_labels, threads=threads)

    def twin(self, precision: Precision) -> Self:
        """There is no other arithmetic."""
        raise UnfitBackendError(f"onnx does not compute in {precision}")

    def __call__(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits ``(B, L, i, j, k)`` of windows ``(B, C, i, j, k)``, in one buffer."""
        shape = (batch.shape[0], self._num_labels, *batch.shape[2:])
        if self._logits.shape != shape:
            self._logits = np.empty(shape, dtype=np.float32)
        windows = np.ascontiguousarray(batch, dtype=np.float32)
        place = ("cpu", 0, np.float32)
        self._binding.bind_input(INPUT, *place, windows.shape, windows.ctypes.data)
        self._binding.bind_output(OUTPUT, *place, shape, self._logits.ctypes.data)
        self._session.run_with_iobinding(self._binding)
        return self._logits


def _session(model: bytes | Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ONLY_ERRORS
    options.enable_mem_pattern = False  # as fast, with a fifth less memory
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
