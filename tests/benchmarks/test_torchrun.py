"""The real ``torchrun``: two processes, one of them killed, and the rest of the run afterwards."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.api.test_kill_fit import write_cases
from tests.api.test_several_processes import losses, words

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
COMMAND = [*LAUNCHER, "--nproc-per-node", "2", "-m", "medseg3d"]
MANY = {"steps_per_epoch": 60, "epochs": 2}


def children_of(process: int) -> list[int]:
    return [
        int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def test_a_killed_process_ends_the_run_and_it_goes_on(tmp_path: Path) -> None:
    cases, run = tmp_path / "cases", tmp_path / "run"
    write_cases(cases)
    whole = [*COMMAND, *words(cases, tmp_path / "whole", **MANY)]
    ended = subprocess.run(whole, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("model.medseg3d") == 1
    assert ended.stderr.count("2 processes, 1 patches each in a step") == 1
    assert "Warning" not in ended.stderr

    process = subprocess.Popen(
        [*COMMAND, *words(cases, run, **MANY)], stderr=subprocess.PIPE, text=True
    )
    while not list(run.glob("checkpoints/last*")):
        time.sleep(0.005)
    os.kill(children_of(process.pid)[1], signal.SIGKILL)
    begun = time.monotonic()
    told = process.communicate(timeout=60)[1]
    assert time.monotonic() - begun < 30
    assert process.returncode == 1
    assert "medseg3d fit: " in told

    resumed = [*COMMAND, "fit", str(cases), "-o", str(run), "--resume"]
    assert subprocess.run(resumed, capture_output=True).returncode == 0
    assert losses(run) == losses(tmp_path / "whole")
