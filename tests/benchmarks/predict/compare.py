"""Whole commands one after the other: medseg3d, its float32 reference, nnU-Net v2 and MONAI.

All with the same weights, window, overlap 0.5, Gaussian weights, no mirroring. Each run is a
fresh process; runs of several tools alternate. What has been measured is kept and not measured
again, so that an interrupted comparison goes on and parts of it can be run alone.

::

    python -m tests.benchmarks.predict.compare                       # everything that is missing
    python -m tests.benchmarks.predict.compare --cases ct20 --tools ours reference
    python -m tests.benchmarks.predict.compare --shape 256 256 60    # a trial
    python -m tests.benchmarks.predict.compare --report              # only the tables
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
import torch

from tests.benchmarks.predict import ct
from tests.benchmarks.predict.agreement import compare, load
from tests.benchmarks.predict.measure import run
from tests.benchmarks.predict.results import FOLDER, Record, Results, gib, say, table, verdict

HERE = Path(__file__).parent
PEERS = FOLDER / "peers" / "bin" / "python"
MEDSEG3D = Path(sys.executable).with_name("medseg3d")
CHAOS = Path("../shared/data/abdomen_ct/chaos3_ct.nii.gz")
SEED = 7
EQUAL_VOXELS, DICE_DIFFERENCE, STITCHING_SHARE = 0.999, 0.001, 0.03

TOOLS = {
    "ours": 3,
    "reference": 1,
    "nnunet": 1,
    "monai": 1,
}
"""Repetitions. ``ours`` has one more, the first of a model, which converts it."""


@dataclass(frozen=True)
class Case:
    """One image with one model, and what is to be reached.

    Attributes:
        model: Name of the bundle.
        num_labels: Labels with the background.
        speedup: Times faster than each peer.
        memory: Largest share of nnU-Net's peak memory.
        generated: Whether the image is generated, so that the truth is known.
    """

    model: str
    num_labels: int
    speedup: float
    memory: float
    generated: bool = True


CASES = {
    "ct3": Case("ct3", 3, speedup=6, memory=1 / 4),
    "ct20": Case("ct20", 20, speedup=10, memory=1 / 10),
    "chaos3": Case("ct3", 3, speedup=6, memory=1 / 4, generated=False),
}


@dataclass(frozen=True)
class Setting:
    """What all runs of a comparison share.

    Attributes:
        folder: Bundles, images, label maps and results.
        shape: Voxels of the generated images.
        device: Where networks compute.
    """

    folder: Path
    shape: tuple[int, int, int]
    device: str

    def key(self, case: str) -> str:
        """Name of a case at this size and on this device."""
        size = "x".join(map(str, self.shape)) if CASES[case].generated else "real"
        return f"{case} {size} {self.device}"

    def bundle(self, case: str) -> Path:
        """Its model."""
        return self.folder / f"{CASES[case].model}.medseg3d"

    def image(self, case: str) -> Path | None:
        """Its image, stored as RAS+ and made if it is not there; None if it cannot be had."""
        images = self.folder / "images"
        if CASES[case].generated:
            name = f"{case}_{'x'.join(map(str, self.shape))}"
            return ct.write(images / name, CASES[case].num_labels, seed=SEED, shape=self.shape)[0]
        turned = images / f"{case}_image.nii.gz"
        if not turned.is_file():
            if not CHAOS.is_file():
                return None
            images.mkdir(parents=True, exist_ok=True)
            nib.as_closest_canonical(nib.load(CHAOS)).to_filename(turned)
        return turned

    def output(self, case: str, tool: str) -> Path:
        """Folder of its label map."""
        return self.folder / "outputs" / self.key(case).replace(" ", "_") / tool

    def labels(self, case: str, tool: str) -> Path | None:
        """Its label map, if there is one."""
        return next(iter(sorted(self.output(case, tool).glob("*.nii.gz"))), None)

    def command(self, case: str, tool: str, image: Path) -> list[str | Path]:
        """The whole command of a tool."""
        out = self.output(case, tool)
        bundle = self.bundle(case)
        if tool in ("nnunet", "monai"):
            script = HERE / "peers" / f"with_{tool}.py"
            return [PEERS, script, bundle, image, out / "labels.nii.gz", self.device]
        exact = ["--backend", "eager", "--precision", "fp32"] if tool == "reference" else []
        return [
            MEDSEG3D,
            "predict",
            image,
            "-m",
            bundle,
            "-o",
            out,
            "--device",
            self.device,
            *exact,
        ]


def measure(setting: Setting, case: str, tools: list[str], results: Results) -> None:
    """Run what is missing of one case, the tools in turn."""
    image = setting.image(case)
    if image is None:
        say(f"{case}: left out, there is no {CHAOS}")
        return
    key = setting.key(case)
    if any(tool in ("nnunet", "monai") for tool in tools):
        expect_equal_logits(setting, case, results)
    rounds = {tool: TOOLS[tool] + (tool == "ours") for tool in tools}
    for number in range(max(rounds.values())):
        for tool in tools:
            if number >= rounds[tool] or len(results.of("compare", key=key, tool=tool)) > number:
                continue
            record = once(setting, case, tool, image, number)
            if record is None:
                rounds[tool] = 0
            else:
                results.add("compare", key=key, tool=tool, **record)


def once(setting: Setting, case: str, tool: str, image: Path, number: int) -> Record | None:
    """One run of one tool; None if it failed for another reason than lack of memory."""
    out = setting.output(case, tool)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    converting = tool == "ours" and number == 0
    if converting:
        shutil.rmtree(setting.bundle(case).with_name(f"{setting.bundle(case).name}.cache"), True)
    log = setting.folder / "logs" / f"{setting.key(case)} {tool}.log".replace(" ", "_")
    found = run(setting.command(case, tool, image), log=log)
    say(
        f"{setting.key(case)}: {tool:9} {found.seconds:8.1f} s  {gib(found.peak_bytes):>6} GiB  "
        f"{found.note}"
    )
    if found.code and not found.ran_out_of_memory:
        say(f"{found.error}\n(whole output in {log})")
        return None
    return asdict(found) | {
        "note": found.note,
        "converting": converting,
        "report": _report(out) if tool in ("ours", "reference") else {},
    }


def _report(out: Path) -> dict[str, Any]:
    """What ``predictions.json`` says of the only case in a folder."""
    path = out / "predictions.json"
    if not path.is_file():
        return {}
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    facts: dict[str, Any] = next(iter(cases.values()))
    kept = ("seconds", "windows", "skipped", "backend", "precision")
    return {name: facts[name] for name in kept if name in facts}


def expect_equal_logits(setting: Setting, case: str, results: Results) -> None:
    """Refuse to compare before the peers' network computes what ours does."""
    from medseg3d.bundle import load_network

    model = CASES[case].model
    if results.of("logits", model=model):
        return
    path = setting.bundle(case)
    network = load_network(path).eval()
    image = np.random.default_rng(0).normal(size=(1, 1, 64, 48, 80)).astype(np.float32)
    with torch.inference_mode():
        logits = network(torch.from_numpy(image)).numpy()
    patch = setting.folder / "patch.npz"
    np.savez(patch, image=image, logits=logits)
    done = subprocess.run(
        [PEERS, HERE / "peers" / "carried.py", path, patch], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{model}: weights carried over differ: {done.stdout or done.stderr}")
    say(f"{model}: logits of the peers' network differ by at most {done.stdout.strip()}")
    results.add("logits", model=model, difference=float(done.stdout))


def agree(setting: Setting, case: str, results: Results) -> None:
    """Compare the label maps of all tools with the reference and with the truth."""
    key = setting.key(case)
    results.forget("agreement", key=key)
    paths = {tool: setting.labels(case, tool) for tool in TOOLS}
    maps = {tool: load(path) for tool, path in paths.items() if path is not None}
    image = setting.image(case)
    truth = None
    if image is not None and CASES[case].generated:
        truth = load(image.with_name(image.name.replace("_image", "_labels")))
    for tool, labels in maps.items():
        record: Record = {}
        if "reference" in maps:
            found = compare(labels, maps["reference"])
            record |= {"equal": found.voxels, "equal_labeled": found.foreground}
        if truth is not None:
            record["dice"] = compare(labels, truth).dice
        results.add("agreement", key=key, tool=tool, **record)


def typical(records: list[Record]) -> Record | None:
    """Median time and largest peak of the runs that ended well, or the failed one."""
    good = [each for each in records if not each["note"] and not each["converting"]]
    if not good:
        return records[-1] if records else None
    return good[-1] | {
        "seconds": median(each["seconds"] for each in good),
        "peak_bytes": max(each["peak_bytes"] for each in good),
    }


def tables(setting: Setting, case: str, results: Results) -> list[str]:
    """Markdown of one case: measurements, stages and targets."""
    key = setting.key(case)
    runs = {tool: typical(results.of("compare", key=key, tool=tool)) for tool in TOOLS}
    known = {tool: record for tool, record in runs.items() if record is not None}
    if not known:
        return []
    agreement = {record["tool"]: record for record in results.of("agreement", key=key)}
    ours = known.get("ours")
    rows = []
    for tool, record in known.items():
        equal = agreement.get(tool, {})
        rows.append(
            [
                tool,
                f"{record['seconds']:.1f}",
                _ratio(record["seconds"], ours and ours["seconds"]),
                gib(record["peak_bytes"]),
                _ratio(record["peak_bytes"], ours and ours["peak_bytes"]),
                *(_percent(equal.get(name)) for name in ("equal", "equal_labeled")),
                f"{equal['dice']:.4f}" if "dice" in equal else "-",
                record["note"],
            ]
        )
    columns = ["tool", "s", "x ours", "peak GiB", "x ours", "= reference", "= labeled"]
    found = [f"### {key}", table([*columns, "Dice to truth", "note"], rows)]
    first = [each for each in results.of("compare", key=key, tool="ours") if each["converting"]]
    if first:
        found.append(f"First run of the model, with its conversion: {first[0]['seconds']:.1f} s.")
    if ours and ours["report"]:
        found.append(_stages(ours["report"]))
    if ours:
        found.append(table(["target", "reached", ""], targets(CASES[case], known, agreement)))
    return found


def targets(
    case: Case, runs: dict[str, Record], agreement: dict[str, Record]
) -> list[tuple[str, str, str]]:
    """What was to be reached, what was, and whether that is enough."""
    ours = runs["ours"]
    rows = []

    def add(target: str, value: float | None, text: str, reached: bool | None) -> None:
        rows.append((target, "not measured" if value is None else text, verdict(reached)))

    for peer in ("nnunet", "monai"):
        ratio = runs[peer]["seconds"] / ours["seconds"] if peer in runs else None
        note = f" ({runs[peer]['note']})" if peer in runs and runs[peer]["note"] else ""
        reached = (
            None if ratio is None or (note and ratio < case.speedup) else ratio >= case.speedup
        )
        add(f"{case.speedup:g} x faster than {peer}", ratio, f"{ratio or 0:.1f} x{note}", reached)
    share = ours["peak_bytes"] / runs["nnunet"]["peak_bytes"] if "nnunet" in runs else None
    add(
        f"peak memory at most 1/{1 / case.memory:g} of nnunet",
        share,
        f"1/{1 / (share or 1):.1f}",
        share is not None and share <= case.memory if share is not None else None,
    )
    mine, exact = agreement.get("ours", {}), agreement.get("reference", {})
    equal = mine.get("equal") if exact else None
    add(
        f"{EQUAL_VOXELS:.1%} of voxels as the float32 reference",
        equal,
        _percent(equal),
        None if equal is None else equal >= EQUAL_VOXELS,
    )
    if case.generated:
        change = mine["dice"] - exact["dice"] if mine and exact else None
        add(
            f"Dice within {DICE_DIFFERENCE} of the reference",
            change,
            f"{change or 0:+.5f}",
            None if change is None else abs(change) < DICE_DIFFERENCE,
        )
    seconds = ours["report"].get("seconds", {})
    part = None
    if "stitch" in seconds:
        part = (seconds["stitch"] + seconds["restore"]) / ours["seconds"]
    add(
        f"stitch and restore below {STITCHING_SHARE:.0%} of the wall time",
        part,
        _percent(part),
        None if part is None else part < STITCHING_SHARE,
    )
    return rows


def _stages(report: Record) -> str:
    seconds = ", ".join(f"{name} {value:.2f}" for name, value in report["seconds"].items())
    return (
        f"Ours: {report.get('backend')} {report.get('precision')}, {report.get('windows')} windows "
        f"({report.get('skipped')} skipped); seconds: {seconds}."
    )


def _ratio(value: float, base: float | None) -> str:
    return f"{value / base:.1f}" if base else "-"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.3%}"


def main() -> None:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--shape", type=int, nargs=3, default=ct.SHAPE)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--again", action="store_true", help="Forget what was measured.")
    parser.add_argument("--report", action="store_true", help="Only make the tables.")
    given = parser.parse_args()
    i, j, k = given.shape
    setting = Setting(given.folder, (i, j, k), given.device)
    results = Results(given.folder / "results.json")
    for case in given.cases:
        if given.again:
            for tool in given.tools:
                results.forget("compare", key=setting.key(case), tool=tool)
        if not given.report:
            measure(setting, case, given.tools, results)
        agree(setting, case, results)
    text = "\n\n".join(line for case in given.cases for line in tables(setting, case, results))
    (given.folder / "compare.md").write_text(f"{text}\n", encoding="utf-8")
    say(text)


if __name__ == "__main__":
    main()
