"""Dice of ``predict`` with and without the crop to the body, on every labeled volume at hand.

By a network of each kind: small ones that learn one structure for some minutes from the volumes
themselves (:mod:`.volumes`), the one for the hippocampus of the start-up part on its held-out
cases, and the one for 3 labels on generated CT. That one sees the real CT too, where only its
two label maps can be compared.

::

    python -m tests.benchmarks.predict.crop
    python -m tests.benchmarks.predict.crop --models liver_ct cord_mr --minutes 2 --threads 1
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from tests.benchmarks.predict import ct, startup, train, volumes
from tests.benchmarks.predict.agreement import compare, load
from tests.benchmarks.predict.commands import Trial, few_threads, fitted, minutes_of, predicted
from tests.benchmarks.predict.compare import Setting
from tests.benchmarks.predict.presets import held_out
from tests.benchmarks.predict.results import FOLDER, Record, Results, say, table, verdict

PART = "crop"
MINUTES, MOST_DIFFERENCE, MOST_ROWS = 3.0, 0.001, 8
MODELS = (*volumes.DATA_SETS, "hippocampus", "ct3")
QUICK = (
    *("width=8", "batch_size=1", "steps_per_epoch=25", "ema=0.99", "foreground=0.5"),
    *("evidence_cases=0", "postprocess=none"),
    # the volumes are learned by heart: a network that knows them well is what is wanted
    *("augmentation.affine_probability=0", "augmentation.elastic_probability=0"),
)


def trial(name: str, folder: Path, *, minutes: float, shape: tuple[int, int, int]) -> Trial:
    """A model, which is trained if it is not there, with its cases."""
    if name == "hippocampus":
        bundle = startup.model(folder, startup.MINUTES)
        return Trial(bundle, *held_out(bundle.parent))
    if name == "ct3":
        setting = Setting(folder, shape, "cpu")
        found = {case: setting.image(case) for case in ("ct3", "chaos3")}
        images = [image for image in found.values() if image is not None]
        generated = images[0]
        truth = generated.with_name(generated.name.replace("_image", "_labels"))
        return Trial(train.models(folder)[name], images, {_case_id(generated): truth})
    learned = volumes.DATA_SETS[name]
    data = volumes.write(learned, folder / "data" / name)
    options = [f"folds={learned.num_cases}", f"patch_size={list(learned.patch)}", *QUICK]
    if learned.spacing is not None:
        options.append(f"spacing={list(learned.spacing)}")
    bundle = fitted(
        folder / "runs" / name / "model.medseg3d",
        data,
        minutes=minutes,
        folder=folder,
        options=[word for option in options for word in ("--set", option)],
    )
    names = [volume.name for volume in learned.volumes]
    images = [file for each in names for file in sorted((data / "imagesTr").glob(f"{each}_*.gz"))]
    return Trial(bundle, images, {each: data / "labelsTr" / f"{each}.nii.gz" for each in names})


def measure(name: str, tried: Trial, folder: Path, threads: int | None) -> Iterator[Record]:
    """What changes for each case of a model."""
    runs = [
        predicted(
            tried.images,
            tried.bundle,
            folder / "outputs" / "crop" / name / ("whole", "body")[crop],
            log=folder / "logs" / f"crop_{name}.log",
            threads=threads,
            options=[] if crop else ["--no-crop"],
        )
        for crop in (False, True)
    ]
    minutes = minutes_of(tried.bundle)
    for case in sorted(runs[0].cases):
        whole, body = (load(run.folder / f"{case}.nii.gz") for run in runs)
        known = [load(tried.truth[case])] if case in tried.truth else []
        dice = [compare(each, truth).dice for truth in known for each in (whole, body)]
        yield {
            "model": name,
            "minutes": minutes,
            "case": case,
            "windows": [run.cases[case]["windows"] for run in runs],
            "seconds": [run.cases[case]["seconds"]["total"] for run in runs],
            "equal": compare(body, whole).voxels,
            "alike": compare(body, whole).dice,
            "dice": dice or None,
        }


def _case_id(image: Path) -> str:
    return image.name.removesuffix(".nii.gz")


def report(results: Results) -> str:
    """Markdown: one row per case, or per model if it has many."""
    models = list(dict.fromkeys(record["model"] for record in results.of(PART)))
    rows, passed = [], []
    for name in models:
        records = results.of(PART, model=name)
        told = [record for record in records if record["dice"] is not None]
        changes = [record["dice"][1] - record["dice"][0] for record in told]
        if len(records) <= MOST_ROWS:
            rows += [_row(name, record["case"], [record]) for record in records]
            passed += [abs(change) < MOST_DIFFERENCE for change in changes]
        else:
            largest = max(changes, key=abs)
            text = f"mean of {len(records)}, largest change {largest:+.5f}"
            rows.append(_row(name, text, records))
            passed.append(abs(mean(changes)) < MOST_DIFFERENCE)
    if not rows:
        return ""
    columns = ["model", "min", "case", "windows", "s", "Dice", "with crop", "change", "= voxels"]
    last = f"\n\nDice with and without within {MOST_DIFFERENCE}: {verdict(all(passed))}."
    return table([*columns, ""], rows) + last


def _row(name: str, case: str, records: list[Record]) -> list[str]:
    def averages(key: str) -> list[float]:
        return [mean(pair) for pair in zip(*(record[key] for record in records), strict=True)]

    windows, seconds = (
        " -> ".join(f"{value:{form}}" for value in averages(key))
        for key, form in (("windows", ".4g"), ("seconds", ".3g"))
    )
    equal = f"{mean(record['equal'] for record in records):.4%}"
    first = [name, f"{records[0]['minutes']:.1f}", case, windows, seconds]
    if records[0]["dice"] is None:
        alike = mean(record["alike"] for record in records)
        return [*first, "-", "-", f"({alike:.4f} alike)", equal, "-"]
    whole, body = averages("dice")
    reached = verdict(abs(body - whole) < MOST_DIFFERENCE)
    return [*first, f"{whole:.4f}", f"{body:.4f}", f"{body - whole:+.5f}", equal, reached]


def main() -> None:
    """Train what is missing, measure what is missing and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="Of training, each.")
    parser.add_argument("--shape", type=int, nargs=3, default=ct.SHAPE, help="Of generated CT.")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--again", action="store_true", help="Forget what was measured.")
    given = parser.parse_args()
    few_threads(given.threads)
    results = Results(given.folder / "results.json")
    i, j, k = given.shape
    failed = []
    for name in given.models:
        if given.again:
            results.forget(PART, model=name)
        if name != "ct3" and not volumes.SHARED.is_dir():
            say(f"{name}: left out, there is no {volumes.SHARED}")
        elif not results.of(PART, model=name):
            try:
                tried = trial(name, given.folder, minutes=given.minutes, shape=(i, j, k))
                for record in list(measure(name, tried, given.folder, given.threads)):
                    results.add(PART, **record)
            except SystemExit as error:
                say(f"{name}: {error}")
                failed.append(name)
            say(f"{report(results)}\n")
    say(report(results))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
