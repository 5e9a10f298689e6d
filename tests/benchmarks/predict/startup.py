"""How soon ``predict`` has labeled one small case, and how many of a folder it labels per second.

A model for the hippocampus is trained once for some minutes in the default configuration. Each
run is a fresh process. The rate of a folder once warm is that of its cases beyond those of a
shorter run: (50 - 1) / (seconds of 50 - seconds of 1).

::

    python -m tests.benchmarks.predict.startup
"""

import argparse
import shutil
from pathlib import Path
from statistics import median

from tests.benchmarks.predict.compare import MEDSEG3D
from tests.benchmarks.predict.measure import Measurement, run
from tests.benchmarks.predict.results import FOLDER, Results, gib, say, table, verdict

DATA = Path("../shared/data/hippocampus")
MINUTES, REPETITIONS, CASES = 3.0, 3, 50
LONGEST_START, SLOWEST_RATE = 4.0, 10.0
PART = "startup"


def model(folder: Path, minutes: float) -> Path:
    """The bundle of a run that is made if it is not there."""
    bundle = folder / "hippocampus" / "model.medseg3d"
    if not bundle.is_file():
        shutil.rmtree(bundle.parent, ignore_errors=True)
        command: list[str | Path] = [MEDSEG3D, "fit", DATA, "-o", bundle.parent]
        command += ["--max-minutes", str(minutes), "--device", "cpu"]
        command += ["--set", f"cache={folder / 'cache'}"]
        found = run(command, log=folder / "logs" / "hippocampus.log")
        if found.code:
            raise SystemExit(f"fit failed:\n{found.error}")
    return bundle


def predicted(images: list[Path], bundle: Path, folder: Path) -> Measurement:
    """Label these images in a fresh process."""
    out = folder / "outputs" / "hippocampus"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    command: list[str | Path] = [MEDSEG3D, "predict", *images, "-m", bundle, "-o", out]
    found = run([*command, "--device", "cpu"], log=folder / "logs" / "startup.log")
    if found.code:
        raise SystemExit(f"predict failed:\n{found.error}")
    return found


def report(results: Results) -> str:
    """Markdown of the latest measurement."""
    records = results.of(PART)
    if not records:
        return ""
    last = records[-1]
    one, many = median(last["one"]), median(last["many"])
    rate = (last["cases"] - 1) / (many - one)
    rows = [
        ["first prediction of the model", f"{last['first']:.2f} s", "", ""],
        [
            "one case, fresh process",
            f"{one:.2f} s",
            f"< {LONGEST_START:g} s",
            verdict(one < LONGEST_START),
        ],
        [f"{last['cases']} cases", f"{many:.2f} s", "", ""],
        [
            "cases per second once warm",
            f"{rate:.1f}",
            f"> {SLOWEST_RATE:g}",
            verdict(rate > SLOWEST_RATE),
        ],
        [f"peak memory of {last['cases']} cases", f"{gib(last['peak_bytes'])} GiB", "", ""],
    ]
    return table(["hippocampus", "reached", "target", ""], rows)


def main() -> None:
    """Train if need be, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="Of training.")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--only-train", action="store_true")
    given = parser.parse_args()
    if not DATA.is_dir():
        say(f"start-up: left out, there is no {DATA}")
        return
    bundle = model(given.folder, given.minutes)
    if given.only_train:
        return
    images = sorted((DATA / "imagesTr").glob("*.nii.gz"))[:CASES]
    shutil.rmtree(bundle.with_name(f"{bundle.name}.cache"), ignore_errors=True)
    first = predicted(images[:1], bundle, given.folder)
    one, many = [], []
    for _ in range(given.repetitions):
        one.append(predicted(images[:1], bundle, given.folder))
        many.append(predicted(images, bundle, given.folder))
    results = Results(given.folder / "results.json")
    results.add(
        PART,
        cases=len(images),
        first=first.seconds,
        one=[each.seconds for each in one],
        many=[each.seconds for each in many],
        peak_bytes=max(each.peak_bytes for each in many),
    )
    say(report(results))


if __name__ == "__main__":
    main()
