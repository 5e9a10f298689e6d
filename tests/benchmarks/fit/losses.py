"""Dice and HD95 after the same minutes with every loss, on the same small set of cases.

32 hippocampus cases to learn from and 8 to choose the weights by, everything but the loss as
``fit`` has it by default; scored on the 176 cases that were not learned from. A loss that steers
boundaries or distances and says nothing about regions is added to the default loss, as its paper
does. What is measured already is kept.

::

    python -m tests.benchmarks.fit.losses --minutes 5
    python -m tests.benchmarks.fit.losses --losses dice focal boundary
    python -m tests.benchmarks.fit.losses --report
"""

import argparse
import shutil
from pathlib import Path

from medseg3d.losses import LOSSES
from medseg3d.losses.building import LABELS, PRESENCE
from tests.benchmarks.few_cases import HIPPOCAMPUS, link_cases
from tests.benchmarks.fit.budgets import FOLDER
from tests.benchmarks.fit.unseen import outcome
from tests.benchmarks.predict.compare import MEDSEG3D
from tests.benchmarks.predict.measure import run
from tests.benchmarks.predict.results import Record, Results, say, table

PART, MINUTES, WIDTH = "losses", 5.0, 32
ADDED = {
    "boundary": "dice_ce+0.1*boundary",
    "cldice": "dice_ce+0.3*cldice",
    "hausdorff_distance": "dice_ce+0.1*hausdorff_distance",
    "semantic_encoding": "dice_ce+semantic_encoding",
}
"""Losses that need another beside them."""

OF_NETWORKS = {"soft_normalized_cut": "wnet"}
"""Losses that compare with something else than labels, and a network that learns by them."""

TRAINED = [
    name
    for name in LOSSES
    if name in OF_NETWORKS or LOSSES.facts(name).get("target", LABELS) in (LABELS, PRESENCE)
]


def small(folder: Path) -> tuple[Path, Path]:
    """A folder of links to the cases, and the split."""
    return link_cases(HIPPOCAMPUS, folder / "small"), folder / "small" / "splits.json"


def measure(loss: str, minutes: float, folder: Path) -> Record:
    """Train once and score."""
    data, splits = small(folder)
    place, log = folder / "runs" / f"loss_{loss}", folder / "logs" / f"loss_{loss}.log"
    shutil.rmtree(place, ignore_errors=True)
    words: list[str | Path] = [MEDSEG3D, "fit", data, "-o", place, "--device", "cpu"]
    words += ["--max-minutes", str(minutes), "--fold", "0", "--set", f"width={WIDTH}"]
    network = OF_NETWORKS.get(loss)
    words += ["--network", network] if network else ["--loss", ADDED.get(loss, loss)]
    words += ["--set", f"splits={splits}", "--set", f"cache={folder / 'cache'}"]
    found = run(words, log=log)
    facts = {"loss": loss, "minutes": minutes, "given": ADDED.get(loss, loss)}
    return facts | outcome(found, place, folder / "small")


def report(results: Results) -> str:
    """Markdown: one row per loss, best Dice first."""
    records = results.of(PART)
    done = sorted((each for each in records if not each["error"]), key=lambda each: -each["dice"])
    rows = [
        [
            each["given"],
            f"{each['dice']:.4f}",
            f"{each['hd95']:.2f}",
            each["steps"],
            f"{each['first']:.3g} -> {each['last']:.3g}",
        ]
        for each in done
    ]
    rows += [[each["loss"], "-", "-", "-", each["error"]] for each in records if each["error"]]
    return table(["loss", "Dice", "HD95 mm", "steps", "value"], rows)


def main() -> None:
    """Measure what is missing and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--losses", nargs="+", choices=TRAINED, default=TRAINED)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--report", action="store_true", help="Only print what there is.")
    given = parser.parse_args()
    results = Results(given.folder / "results.json")
    for loss in () if given.report else given.losses:
        if not results.of(PART, loss=loss, minutes=given.minutes):
            say(loss)
            results.add(PART, **measure(loss, given.minutes, given.folder))
    say(report(results))


if __name__ == "__main__":
    main()
