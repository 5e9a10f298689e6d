"""Dice on whole held-out cases after so many minutes of training: medseg3d, nnU-Net, DynUNet.

Fold 0 of the hippocampus cases, the same split for all, each with its own defaults and the same
minutes on the same processors. What is measured already is kept, so that an interrupted run
goes on. Let nothing else run meanwhile.

::

    python -m tests.benchmarks.fit.budgets                            # hours: all that is missing
    python -m tests.benchmarks.fit.budgets --tools ours --minutes 10 --seeds 0 1 2
    python -m tests.benchmarks.fit.budgets --report
"""

import argparse
import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from medseg3d.data.cases import find_inputs
from medseg3d.data.split import deal_folds
from tests.benchmarks.predict.agreement import compare, load
from tests.benchmarks.predict.compare import MEDSEG3D
from tests.benchmarks.predict.measure import Measurement, run
from tests.benchmarks.predict.results import Record, Results, gib, say, table, verdict
from tests.benchmarks.predict.startup import DATA

FOLDER = Path("build/bench-fit")
PEERS = Path("build/bench-predict/peers/bin/python")
SCRIPTS = Path(__file__).parent / "peers"
PART = "budgets"
TOOLS = {"ours": "medseg3d", "nnunet": "nnU-Net v2", "dynunet": "MONAI DynUNet"}
MINUTES, SEEDS = (5.0, 10.0, 30.0, 60.0), (0, 1, 2)
TARGETS = {10.0: 0.87, 30.0: 0.885, 60.0: 0.890}


def held_out(folder: Path) -> tuple[Path, list[str]]:
    """The split as one file for all tools, and the cases that are held out."""
    path = folder / "split.json"
    if not path.is_file():
        fold = deal_folds(find_inputs([DATA / "imagesTr"]))["0"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(fold.as_dict(), indent=1), encoding="utf-8")
    return path, json.loads(path.read_text(encoding="utf-8"))["validation"]


def train(
    tool: str, minutes: float, seed: int, folder: Path, options: Sequence[str] = ()
) -> tuple[Path, Measurement, int]:
    """Label maps of the held-out cases, the whole command's time and memory, and the steps."""
    name = f"{tool}_{minutes:g}min_seed{seed}"
    out, log = folder / "labels" / name, folder / "logs" / f"{name}.log"
    shutil.rmtree(out, ignore_errors=True)
    given, _ = held_out(folder)
    if tool == "ours":
        found = ours(folder / "runs" / name, given, minutes, seed, log, options)
        with (folder / "runs" / name / "history.csv").open(encoding="utf-8") as file:
            steps = max(int(row["step"]) for row in csv.DictReader(file))
        shutil.copytree(folder / "runs" / name / "validation", out)
        return out, found, steps
    script = SCRIPTS / f"train_{tool}.py"
    words = [PEERS, script, DATA, given, folder / tool, str(minutes), str(seed), out]
    found = run(words, log=log)
    if found.code:
        raise SystemExit(f"{TOOLS[tool]} failed:\n{found.error}")
    return out, found, int(json.loads((out / "facts.json").read_text("utf-8"))["steps"])


def ours(
    place: Path, split: Path, minutes: float, seed: int, log: Path, options: Sequence[str]
) -> Measurement:
    """One ``fit`` in its default configuration."""
    shutil.rmtree(place, ignore_errors=True)
    fold = json.loads(split.read_text(encoding="utf-8"))
    splits = split.with_name("splits_final.json")
    splits.write_text(
        json.dumps([{"train": fold["training"], "val": fold["validation"]}]), encoding="utf-8"
    )
    words: list[str | Path] = [MEDSEG3D, "fit", DATA, "-o", place, "--device", "cpu"]
    words += ["--max-minutes", str(minutes), "--seed", str(seed), "--fold", "0"]
    words += ["--set", f"splits={splits}", "--set", f"cache={split.parent / 'cache'}", *options]
    found = run(words, log=log)
    if found.code:
        raise SystemExit(f"fit failed:\n{found.error}")
    return found


def dice(folder: Path, names: Sequence[str]) -> float:
    """Mean over the cases of the mean over both labels."""
    return mean(
        compare(load(folder / f"{name}.nii.gz"), load(DATA / "labelsTr" / f"{name}.nii.gz")).dice
        for name in names
    )


def measure(tool: str, minutes: float, seed: int, folder: Path) -> Record:
    """Train once and score."""
    labels, found, steps = train(tool, minutes, seed, folder)
    _, names = held_out(folder)
    return {
        "tool": tool,
        "minutes": minutes,
        "seed": seed,
        "dice": dice(labels, names),
        "steps": steps,
        "command_seconds": found.seconds,
        "peak_bytes": found.peak_bytes,
    }


def report(results: Results) -> str:
    """Markdown: one row per budget and tool."""
    rows = []
    budgets = sorted({record["minutes"] for record in results.of(PART)})
    for minutes in budgets:
        means = {}
        for tool, title in TOOLS.items():
            records = results.of(PART, tool=tool, minutes=minutes)
            if not records:
                continue
            values = [record["dice"] for record in records]
            means[tool] = mean(values)
            spread = f"{stdev(values):.4f}" if len(values) > 1 else "-"
            goal = TARGETS.get(minutes) if tool == "ours" else None
            rows.append(
                [
                    f"{minutes:g}",
                    title,
                    len(values),
                    f"{means[tool]:.4f}",
                    spread,
                    f"{mean(record['steps'] for record in records):.0f}",
                    gib(max(record["peak_bytes"] for record in records)),
                    verdict(None if goal is None else means[tool] >= goal),
                ]
            )
    return table(["min", "tool", "seeds", "Dice", "SD", "steps", "peak GiB", "target"], rows)


def main() -> None:
    """Measure what is missing and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--minutes", nargs="+", type=float, default=MINUTES)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--report", action="store_true", help="Only print what there is.")
    given = parser.parse_args()
    results = Results(given.folder / "results.json")
    wanted = [
        {"tool": tool, "minutes": minutes, "seed": seed}
        for seed in given.seeds
        for minutes in given.minutes
        for tool in given.tools
    ]
    for facts in () if given.report else wanted:
        if not results.of(PART, **facts):
            say(f"{TOOLS[facts['tool']]}, {facts['minutes']:g} minutes, seed {facts['seed']}")
            results.add(PART, **measure(**facts, folder=given.folder))
            say(f"Dice {results.of(PART, **facts)[0]['dice']:.4f}")
    say(report(results))


if __name__ == "__main__":
    main()
