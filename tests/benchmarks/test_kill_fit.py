"""Thirty kills of the real command at random moments of a fit, and what they met."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import medseg3d

MOMENTS = 30


def load_small_version() -> Any:
    path = Path(__file__).parents[1] / "api" / "test_kill_fit.py"
    spec = spec_from_file_location("small_kill_fit", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launch(cases: Path, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "medseg3d", "fit", str(cases)]
    for name, value in options.items():
        text = str(list(value) if isinstance(value, tuple) else value).lower()
        command += ["--set", f"{name}={value if isinstance(value, Path) else text}"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def wait(process: subprocess.Popen[bytes]) -> int:
    return process.wait(120)


def test_thirty_kills(tmp_path: Path) -> None:
    small = load_small_version()
    cases = tmp_path / "cases"
    small.write_cases(cases)
    whole = medseg3d.fit(cases, out=tmp_path / "whole", cache=tmp_path / "cache", **small.SMALL)
    met = small.kill_at_random(cases, tmp_path, whole, launch, wait, moments=MOMENTS)
    phases = ", ".join(f"{phase} {count}" for phase, count in met.items())
    sys.stdout.write(f"\nkilled while {phases}\n")
    assert met.total() == MOMENTS
