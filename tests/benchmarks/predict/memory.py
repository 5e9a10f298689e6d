"""Peak memory of ``medseg3d predict`` over the length of the scan and the number of labels.

With narrow networks of random weights (8 channels instead of 32), one per number of labels; the
CT is the same for all of them.

::

    python -m tests.benchmarks.predict.memory
    python -m tests.benchmarks.predict.memory --plane 256 --slices 64 128 --labels 2 20   # a trial
"""

import argparse
import shutil
from pathlib import Path

from tests.benchmarks.predict import ct
from tests.benchmarks.predict.compare import MEDSEG3D
from tests.benchmarks.predict.measure import Measurement, run
from tests.benchmarks.predict.results import FOLDER, Results, gib, say, table

PART = "memory"


def measure(results: Results, folder: Path, plane: int, slices: int, num_labels: int) -> None:
    """One run, unless there is one."""
    facts = {"plane": plane, "slices": slices, "labels": num_labels}
    if results.of(PART, **facts):
        return
    shape = (plane, plane, slices)
    model = folder / f"random{num_labels}.medseg3d"
    if not model.with_name(f"{model.name}.cache").is_dir():
        predicted(folder, model, (256, 256, 64))  # converts the model, which takes memory too
    found = predicted(folder, model, shape)
    say(f"{facts}: {gib(found.peak_bytes)} GiB, {found.seconds:.1f} s {found.note}")
    results.add(
        PART,
        **facts,
        image_bytes=2 * plane * plane * slices,
        peak_bytes=found.peak_bytes,
        seconds=found.seconds,
        note=found.note,
    )


def predicted(folder: Path, model: Path, shape: tuple[int, int, int]) -> Measurement:
    """Label a generated CT in a fresh process."""
    size = "x".join(map(str, shape))
    image, _ = ct.write(folder / "images" / f"memory_{size}", 3, seed=3, shape=shape)
    out = folder / "outputs" / "memory"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    log = folder / "logs" / f"memory_{size}_{model.stem}.log"
    return run([MEDSEG3D, "predict", image, "-m", model, "-o", out, "--device", "cpu"], log=log)


def report(results: Results) -> str:
    """Markdown: lengths down, numbers of labels across."""
    records = results.of(PART)
    labels = sorted({each["labels"] for each in records})
    rows = []
    for plane, slices in sorted({(each["plane"], each["slices"]) for each in records}):
        here = {each["labels"]: each for each in results.of(PART, plane=plane, slices=slices)}
        image = next(iter(here.values()))["image_bytes"]
        cells = [
            (here[count]["note"] or f"{gib(here[count]['peak_bytes'])}") if count in here else "-"
            for count in labels
        ]
        rows.append([f"{plane} x {plane} x {slices}", gib(image), *cells])
    columns = ["voxels", "image GiB (int16)", *(f"{count} labels" for count in labels)]
    return table(columns, rows)


def main() -> None:
    """Measure what is missing and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--plane", type=int, default=512)
    parser.add_argument("--slices", type=int, nargs="+", default=[256, 512, 768])
    parser.add_argument("--labels", type=int, nargs="+", default=[2, 20, 100])
    parser.add_argument("--again", action="store_true", help="Forget what was measured.")
    given = parser.parse_args()
    results = Results(given.folder / "results.json")
    if given.again:
        results.forget(PART)
    for slices in given.slices:
        for count in given.labels:
            measure(results, given.folder, given.plane, slices, count)
    say(report(results))


if __name__ == "__main__":
    main()
