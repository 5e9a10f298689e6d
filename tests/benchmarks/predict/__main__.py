"""``make bench-predict``: everything that is missing, then one report.

Takes about 90 minutes on two cores, most of it the peers; 60 more to train the networks at the
first time. Needs 24 GiB of memory for nnU-Net with 20 labels (it is ended first should that not
do). Let nothing else run meanwhile. An interrupted run goes on where it was.

::

    python -m tests.benchmarks.predict                       # all parts
    python -m tests.benchmarks.predict --parts memory startup
    python -m tests.benchmarks.predict --parts               # only the report, of what there is

Files are kept in ``build/bench-predict``: the bundles, ``results.json`` and ``report.md``. The
parts, with more options::

    train       the networks                        python -m tests.benchmarks.predict.train
    compare     medseg3d, nnU-Net v2, MONAI         python -m tests.benchmarks.predict.compare
    throughput  convolutions against the peak       python -m tests.benchmarks.predict.throughput
    memory      length of the scan and labels       python -m tests.benchmarks.predict.memory
    startup     small cases                         python -m tests.benchmarks.predict.startup
    crop        Dice without the crop to the body   python -m tests.benchmarks.predict.crop
    presets     Dice and time of the presets        python -m tests.benchmarks.predict.presets
"""

import argparse
import platform
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.predict import compare, crop, ct, memory, presets, startup, throughput
from tests.benchmarks.predict.results import FOLDER, Results, say

PARTS = ("train", "compare", "throughput", "memory", "startup", "crop", "presets")


def report(folder: Path) -> str:
    """Markdown of all that was measured at the full size."""
    results = Results(folder / "results.json")
    setting = compare.Setting(folder, ct.SHAPE, "cpu")
    cases = [line for case in compare.CASES for line in compare.tables(setting, case, results)]
    sections = {
        "Whole commands": "\n\n".join(cases),
        "Convolutions": throughput.report(results),
        "Peak memory in GiB": memory.report(results),
        "Small cases": startup.report(results),
        "Crop to the body": crop.report(results),
        "Presets": presets.report(results),
    }
    machine = f"{platform.machine()}, {_processor()}, {platform.python_version()}"
    text = [f"# make bench-predict\n\nMeasured on: {machine}."]
    return "\n\n".join([*text, *(f"## {title}\n\n{body}" for title, body in sections.items())])


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if not facts.is_file():
        return platform.processor()
    lines = facts.read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def main() -> None:
    """Run the parts, each in a process of its own, and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    failed = []
    for part in given.parts:
        say(f"== {part}")
        module = f"tests.benchmarks.predict.{part}"
        if subprocess.run([sys.executable, "-m", module, "--folder", given.folder]).returncode:
            failed.append(part)
    text = report(given.folder)
    (given.folder / "report.md").write_text(f"{text}\n", encoding="utf-8")
    say(f"\n{text}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
