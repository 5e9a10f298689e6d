"""Models for other programs: they compute the same there, say how, or do not appear."""

import hashlib
import json
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from typer.testing import CliRunner

from medseg3d import api
from medseg3d.api import portable
from medseg3d.bundle import Bundle, inspect_bundle, load_network, save_bundle
from medseg3d.cli import app
from medseg3d.data.plan import Normalization, Plan
from medseg3d.errors import ConfigError, RunError
from medseg3d.inference.backends.onnx import Exchange
from medseg3d.inference.backends.openvino import quiet_openvino
from medseg3d.inference.course import Course
from medseg3d.networks import build_network

OPTIONS = {"width": 2, "strides": [[2, 2, 1]]}
FILES = {"onnx": ("liver.onnx",), "openvino": ("liver.xml", "liver.bin")}

Run = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def bundle(network: str = "unet3d", options: dict[str, Any] = OPTIONS) -> Bundle:
    plan = Plan(
        num_cases=3,
        labels={0: "background", 4: "liver", 300: "tümor"},
        channels=(Normalization(name="CT", scheme="ct", lower=-9.5, upper=99, mean=40, sd=20),),
        spacing=(1.0, 1.0, 2.5),
        coarse_axis=2,
        median_shape=(64, 64, 32),
        patch_size=(16, 12, 8),
        batch_size=2,
        strides=((2, 2, 1),),
        kernels=((3, 3, 3), (3, 3, 3)),
        width=2,
        max_width=320,
        mirror_axes=(0,),
    )
    return Bundle(network=network, options=options, plan=plan, channels=1, scores={"mean": 0.8})


def save(path: Path, described: Bundle) -> Path:
    torch.manual_seed(0)
    save_bundle(path, described, build_network(described.network, 1, 3, options=described.options))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save(tmp_path / "runs" / "liver" / "model.medseg3d", bundle())
    return tmp_path / "runs" / "liver"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def runtime(path: Path, facts: dict[str, Any]) -> Run:
    """The file as another program opens it."""
    given, wanted = facts["model"]["input"]["name"], facts["model"]["output"]["name"]
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda batch: np.asarray(session.run([wanted], {given: batch})[0])
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = quiet_openvino().Core().compile_model(path, "CPU", hint)
    return lambda batch: np.asarray(compiled({given: batch})[wanted])


def reference(path: Path) -> Run:
    network = load_network(path).eval()
    return lambda batch: network(torch.from_numpy(batch)).detach().numpy()


@pytest.mark.parametrize("form", FILES)
def test_other_programs_compute_the_same_logits(form: str, run: Path, here: Path) -> None:
    written = api.export(run, format=form)
    assert written == Path(FILES[form][0])
    described = f"{written}.json"
    assert sorted(path.name for path in here.iterdir()) == sorted([*FILES[form], described])
    facts = json.loads(Path(described).read_text(encoding="utf-8"))
    there, expected = runtime(written, facts), reference(run / "model.medseg3d")
    for shape in ((1, 1, 16, 12, 8), (2, 1, 4, 6, 3), (1, 1, 24, 10, 5)):
        batch = np.random.default_rng(3).normal(size=shape).astype(np.float32)
        np.testing.assert_allclose(there(batch), expected(batch), atol=1e-4)


def test_the_description_holds_what_surrounds_the_network(run: Path) -> None:
    api.export(run, format="onnx")
    facts = json.loads(Path("liver.onnx.json").read_text(encoding="utf-8"))
    digest = inspect_bundle(run / "model.medseg3d").sha256
    assert facts["source"] == {"file": "model.medseg3d", "sha256": digest}
    content = Path("liver.onnx").read_bytes()
    assert facts["model"]["files"] == {"liver.onnx": hashlib.sha256(content).hexdigest()}
    assert facts["model"]["input"] == {
        "name": "image",
        "dtype": "float32",
        "axes": ["batch", "channel", "i", "j", "k"],
        "channels": 1,
        "multiples_of": [2, 2, 1],
    }
    assert facts["model"]["output"]["axes"] == ["batch", "label", "i", "j", "k"]
    before, windows = facts["preprocessing"], facts["windows"]
    assert (before["orientation"], before["spacing_mm"]) == ("RAS", [1.0, 1.0, 2.5])
    [channel] = before["channels"]
    assert channel == {
        **{"name": "CT", "scheme": "ct"},
        **{"lower": -9.5, "upper": 99, "mean": 40, "sd": 20, "masks": False},
    }
    assert (windows["window"], windows["overlap"]) == ([16, 12, 8], 0.5)
    assert facts["postprocessing"]["labels"] == [
        {"channel": 0, "value": 0, "name": "background"},
        {"channel": 1, "value": 4, "name": "liver"},
        {"channel": 2, "value": 300, "name": "tümor"},
    ]
    assert 0 <= facts["compared"]["largest_difference_as_part_of_largest_logit"] < 1e-4
    assert facts["compared"]["windows"] == [[16, 12, 8], [8, 12, 4], [8, 6, 8]]


def test_the_description_says_how_slices_lie_in_windows() -> None:
    volumes, slices = (
        described.model_copy(update={"plan": described.plan.model_copy(update=facts)})
        for described, facts in (
            (bundle(), {}),
            (bundle(), {"slice_axis": 2, "patch_size": (16, 12, 1), "batch_size": 9}),
        )
    )
    usual, windows = (portable.description(each)["windows"] for each in (volumes, slices))
    assert (usual["slice_axis"], usual["window"]) == (None, (16, 12, 8))
    assert (windows["slice_axis"], windows["window"]) == (2, (16, 12, 4))
    first, *others = windows["rules"]
    assert others == usual["rules"]
    assert "m = ceil(n / window) windows of ceil(n / m) slices" in first
    for n in range(1, 30):
        m = ceil(n / 4)
        depth = ceil(n / m)
        places = [round((n - depth) * place / max(1, m - 1)) for place in range(m)]
        course = Course.through((20, 30, n), windows["window"], 0.5, slice_axis=2)
        assert (course.window[2], course.starts[2]) == (depth, places)


@pytest.mark.parametrize("form", FILES)
def test_networks_with_slices_are_exported_for_any_number_of_them(
    form: str, tmp_path: Path
) -> None:
    options = {"stem": 6, "growth": [4, 3], "layers": [[1, 1], [1, 1]], "slice_chunk": 3}
    path = save(tmp_path / "hybrid.medseg3d", bundle("hdenseunet", options))
    written = api.export(path, format=form)
    facts = json.loads(Path(f"{written}.json").read_text(encoding="utf-8"))
    there, expected = runtime(written, facts), reference(path)
    batch = np.random.default_rng(3).normal(size=(1, 1, 16, 24, 20)).astype(np.float32)
    np.testing.assert_allclose(there(batch), expected(batch), atol=1e-3)


def test_what_does_not_agree_does_not_appear(
    run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Exchange.float32
    seen = []

    def drifting(self: Exchange, model: Any, threads: int) -> Run:
        right = original(self, model, threads)
        seen.append(model)
        wrong = isinstance(model, Path)  # what was read again
        return lambda batch: right(batch) + (0.1 if wrong else 0)

    monkeypatch.setattr(Exchange, "float32", drifting)
    with pytest.raises(RunError, match=r"as onnx: its logits differ from torch's by up to"):
        api.export(run, format="onnx")
    assert len(seen) == 2
    assert not list(here.iterdir())


def test_files_that_are_there_stay_unless_told(run: Path, here: Path) -> None:
    described = here / "liver.onnx.json"
    described.write_text("precious")
    with pytest.raises(RunError, match=r"liver\.onnx\.json exists already; give --overwrite"):
        api.export(run, format="onnx")
    assert [path.read_text() for path in here.iterdir()] == ["precious"]
    api.export(run, format="onnx", overwrite=True)
    assert json.loads(described.read_text())["model"]["format"] == "onnx"


def test_unknown_formats_and_suffixes_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="--format tflite is unknown; known: onnx, openvino"):
        api.export(run, format="tflite")
    with pytest.raises(ConfigError, match=r"ends in \.xml, such as liver\.onnx\.xml"):
        api.export(run, format="openvino", out="liver.onnx")


def test_a_missing_package_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "missing", lambda _: ["onnx"])
    with pytest.raises(ConfigError, match=r'needs onnx, .* pip install "medseg3d\[onnx\]"$'):
        api.export(run, format="onnx")


def test_the_command_prints_the_file_to_open(run: Path, here: Path) -> None:
    (here / "models").mkdir()
    arguments = ["export", str(run), "--format", "onnx", "-o", "models"]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (0, "models/liver.onnx\n"), result.output
