"""Dice and time of ``predict --fast``, without a preset and ``--accurate``.

On the held-out hippocampus cases of a model that is trained for some minutes with ``--mirror``,
and on a generated CT by the network for 3 labels, which knows no mirrored copies.

::

    python -m tests.benchmarks.predict.presets
    python -m tests.benchmarks.predict.presets --minutes 5 --threads 1 --shape 512 512 100
"""

import argparse
import json
from pathlib import Path
from statistics import mean, median

from tests.benchmarks.predict import ct, startup, train
from tests.benchmarks.predict.agreement import compare, load
from tests.benchmarks.predict.commands import Trial, few_threads, fitted, minutes_of, predicted
from tests.benchmarks.predict.compare import SEED
from tests.benchmarks.predict.results import FOLDER, Record, Results, say, table

PART = "presets"
MINUTES = 15.0
PRESETS = {"--fast": ["--fast"], "default": [], "--accurate": ["--accurate"]}
MODELS = {"hippocampus": tuple(PRESETS), "ct3": ("--fast", "default")}


def held_out(run: Path) -> tuple[list[Path], dict[str, Path]]:
    """Images and label maps of the hippocampus cases that a run has not learned from."""
    names = json.loads((run / "split.json").read_text(encoding="utf-8"))["validation"]
    images = [startup.DATA / "imagesTr" / f"{name}.nii.gz" for name in names]
    return images, {name: startup.DATA / "labelsTr" / f"{name}.nii.gz" for name in names}


def trial(model: str, folder: Path, *, minutes: float, shape: tuple[int, int, int]) -> Trial:
    """A model, which is trained if it is not there, with its cases."""
    if model == "ct3":
        image, truth = ct.write(
            folder / "images" / f"ct3_{'x'.join(map(str, shape))}", 3, seed=SEED, shape=shape
        )
        case = image.name.removesuffix(".nii.gz")
        return Trial(train.models(folder)[model], [image], {case: truth})
    bundle = folder / "hippocampus_mirror" / "model.medseg3d"
    options = ["--mirror", "--set", "postprocess=none"]
    fitted(bundle, startup.DATA, minutes=minutes, folder=folder, options=options)
    return Trial(bundle, *held_out(bundle.parent))


def measure(model: str, tried: Trial, preset: str, folder: Path, threads: int | None) -> Record:
    """One preset of one model."""
    run = predicted(
        tried.images,
        tried.bundle,
        folder / "outputs" / "presets" / model / preset.strip("-"),
        log=folder / "logs" / f"presets_{model}.log",
        threads=threads,
        options=PRESETS[preset],
    )
    scores = [
        compare(load(run.folder / f"{case}.nii.gz"), load(truth)).dice
        for case, truth in tried.truth.items()
    ]
    return {
        "model": model,
        "minutes": minutes_of(tried.bundle),
        "preset": preset,
        "cases": len(scores),
        "dice": mean(scores),
        "windows": mean(case["windows"] for case in run.cases.values()),
        "case_seconds": median(case["seconds"]["compute"] for case in run.cases.values()),
        "seconds": run.seconds,
        "processor_seconds": run.processor_seconds,
    }


def report(results: Results) -> str:
    """Markdown: one row per model and preset."""
    rows = []
    for model in MODELS:
        usual = results.of(PART, model=model, preset="default")
        for preset in PRESETS:
            for record in results.of(PART, model=model, preset=preset)[-1:]:
                change = f"{record['dice'] - usual[-1]['dice']:+.4f}" if usual else "-"
                rows.append(
                    [
                        f"{model} ({record['minutes']:.1f} min)",
                        preset,
                        record["cases"],
                        f"{record['windows']:.1f}",
                        f"{record['dice']:.4f}",
                        change,
                        f"{record['case_seconds']:.2f}",
                        f"{record['seconds']:.1f}",
                        f"{record['processor_seconds']:.1f}",
                    ]
                )
    columns = ["model", "preset", "cases", "windows each", "Dice", "to default", "s each"]
    return table([*columns, "command s", "processor s"], rows) if rows else ""


def main() -> None:
    """Train what is missing, measure what is missing and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--minutes", type=float, default=MINUTES, help="Of training.")
    parser.add_argument("--shape", type=int, nargs=3, default=ct.SHAPE, help="Of generated CT.")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--again", action="store_true", help="Forget what was measured.")
    given = parser.parse_args()
    few_threads(given.threads)
    results = Results(given.folder / "results.json")
    i, j, k = given.shape
    for model in given.models:
        if given.again:
            results.forget(PART, model=model)
        if model != "ct3" and not startup.DATA.is_dir():
            say(f"{model}: left out, there is no {startup.DATA}")
            continue
        missing = [each for each in MODELS[model] if not results.of(PART, model=model, preset=each)]
        if not missing:
            continue
        tried = trial(model, given.folder, minutes=given.minutes, shape=(i, j, k))
        out, log = given.folder / "outputs" / "presets", given.folder / "logs" / "presets.log"
        first = tried.images[:1]  # the model is converted by this one
        predicted(first, tried.bundle, out / "first", log=log, threads=given.threads)
        for preset in missing:
            record = measure(model, tried, preset, given.folder, given.threads)
            results.add(PART, **record)
            say(f"{model} {preset}: Dice {record['dice']:.4f}, {record['seconds']:.1f} s")
    say(report(results))


if __name__ == "__main__":
    main()
