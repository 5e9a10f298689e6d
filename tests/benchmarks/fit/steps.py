"""Training steps per second and peak memory: medseg3d, nnU-Net's network and loss, DynUNet.

The same U-Net, patch, batch and supervised levels, each in a fresh process; the peers in
float32, which is what they compute in on a CPU, ours in float32 too and in bf16, which ``fit``
takes where the processor has it. ``fit`` keeps the memory of arrays that were freed; the peers
give it back and, by what glibc lets anybody set from outside, keep it as well. The peak is that
of the whole process. Of several processes in turn the fastest counts, and its memory.

::

    python -m tests.benchmarks.fit.steps
"""

import argparse
import json
import sys
from itertools import product
from pathlib import Path

from tests.benchmarks.fit.budgets import FOLDER, PEERS, SCRIPTS
from tests.benchmarks.predict.measure import run
from tests.benchmarks.predict.results import Record, Results, gib, say, table

PART = "steps"
SETTINGS: dict[str, tuple[int, ...]] = {
    # channels, labels, batch, steps, patch, widths
    "hippocampus": (1, 3, 2, 10, 40, 56, 40, 32, 64, 128, 256),
    "hippocampus, batch 9": (1, 3, 9, 4, 40, 56, 40, 32, 64, 128, 256),
    "96^3, batch 1": (1, 3, 1, 4, 96, 96, 96, 32, 64, 128, 256, 320),
}
OURS = [sys.executable, "-m", "tests.benchmarks.fit.our_step"]
THEIRS = [PEERS, SCRIPTS / "step_of_peer.py"]
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""Variables that glibc reads (mallopt(3)); what :func:`freed_memory_kept` sets from inside."""

TOOLS: dict[str, tuple[list[str | Path], dict[str, str]]] = {
    "ours bf16": ([*OURS, "bf16"], {}),
    "ours fp32": ([*OURS, "fp32"], {}),
    "nnU-Net": ([*THEIRS, "nnunet"], {}),
    "nnU-Net, memory kept": ([*THEIRS, "nnunet"], KEPT),
    "DynUNet": ([*THEIRS, "monai"], {}),
    "DynUNet, memory kept": ([*THEIRS, "monai"], KEPT),
}


def measure(setting: str, tool: str, folder: Path) -> Record:
    """One process."""
    log = folder / "logs" / f"step_{tool}_{setting}.log".replace(" ", "_")
    words, variables = TOOLS[tool]
    found = run([*words, *map(str, SETTINGS[setting])], log=log, variables=variables)
    if found.code:
        raise SystemExit(f"{tool} failed:\n{found.error}")
    seconds = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["seconds"]
    return {
        "setting": setting,
        "tool": tool,
        "seconds": seconds,
        "peak_bytes": found.peak_bytes,
    }


def report(results: Results) -> str:
    """Markdown: one row per setting and tool."""
    rows = []
    for setting in SETTINGS:
        records = {
            tool: min(found, key=lambda record: record["seconds"])
            for tool in TOOLS
            if (found := results.of(PART, setting=setting, tool=tool))
        }
        ours = records.get("ours bf16")
        for tool, record in records.items():
            times = record["seconds"] / ours["seconds"] if ours else float("nan")
            more = record["peak_bytes"] / ours["peak_bytes"] if ours else float("nan")
            rows.append(
                [
                    setting,
                    tool,
                    f"{1 / record['seconds']:.2f}",
                    f"{times:.1f}",
                    gib(record["peak_bytes"]),
                    f"{more:.2f}",
                ]
            )
    return table(["setting", "tool", "steps/s", "x ours", "peak GiB", "x ours"], rows)


def main() -> None:
    """Measure what is missing and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--repeats", type=int, default=2, help="Processes of each, in turn.")
    parser.add_argument("--again", action="store_true", help="Forget what was measured.")
    given = parser.parse_args()
    results = Results(given.folder / "results.json")
    if given.again:
        results.forget(PART)
    for number, setting, tool in product(range(given.repeats), SETTINGS, TOOLS):
        if len(results.of(PART, setting=setting, tool=tool)) <= number:
            say(f"{setting}: {tool}")
            results.add(PART, **measure(setting, tool, given.folder))
    say(report(results))


if __name__ == "__main__":
    main()
