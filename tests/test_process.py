"""How a process ends: the first signal in order, a second one at once, and never too late."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from medseg3d.__main__ import main
from medseg3d.errors import RunError
from medseg3d.process import out_of_memory, sentence

START = """
import signal, sys, time, hashlib
signal.signal(signal.SIGINT, signal.default_int_handler)
from medseg3d import process
from medseg3d.errors import Terminated, TimeIsUp
process.GRACE = 0.6
process.handle_signals()
"""
ORDERLY = """
try:
    print("begun", flush=True)
    for _ in range(300):  # a signal that comes just before a long sleep would not end it
        time.sleep(0.1)
except TimeIsUp:
    print("time is up", flush=True)
    sys.exit(138)
except Terminated:
    print("terminated", flush=True)
    sys.exit(143)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""
SLOW_TO_CLEAN = """
process.GRACE = 30
try:
    print("begun", flush=True)
    for _ in range(300):
        time.sleep(0.1)
finally:
    print("cleaning", flush=True)
    time.sleep(30)
"""
OUTSIDE_PYTHON = """
print("begun", flush=True)
hashlib.pbkdf2_hmac("sha256", b"x", b"y", 200_000_000)
"""
IGNORING = """
import os
signal.signal(signal.SIGHUP, signal.SIG_IGN)
process.handle_signals()
print("begun", flush=True)
os.kill(os.getpid(), signal.SIGHUP)
print("still here")
"""


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", START + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 143, "terminated"),
        (signal.SIGUSR1, 138, "time is up"),
    ],
)
def test_the_first_signal_is_raised(number: int, code: int, word: str) -> None:
    with running(ORDERLY) as process:
        process.send_signal(number)
        process.send_signal(number)  # as timeout does, to the process and to its group
        assert process.stdout is not None
        output = process.stdout.read()
        process.wait(20)
    assert (output, process.returncode) == (f"{word}\n", code)


def test_a_second_signal_ends_at_once() -> None:
    with running(SLOW_TO_CLEAN) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "cleaning\n"
        time.sleep(0.6)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143  # the grace is 30 s


@pytest.mark.parametrize(
    "code", [OUTSIDE_PYTHON, SLOW_TO_CLEAN.replace("GRACE = 30", "GRACE = 0.6")]
)
def test_no_end_within_the_grace_is_an_end_all_the_same(code: str) -> None:
    with running(code) as process:
        time.sleep(0.1)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    assert 0.5 < time.monotonic() - begun < 18


def test_ignored_signals_stay_ignored() -> None:
    with running(IGNORING) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        process.wait(20)
    assert (output, process.returncode) == ("still here\n", 0)


def test_on_windows_one_sentence_says_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="runs on Linux; run it in WSL"):
        main()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("std::bad_alloc"), True),
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
            ),
            True,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_lack_of_memory_is_recognized(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected
    assert not out_of_memory(RunError(str(error))), "what is told already"
    assert ("the memory is used up" in sentence(error)) is expected
