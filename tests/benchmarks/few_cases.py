"""A few hippocampus cases, four fifths to learn from and the others held out."""

import json
import random
from pathlib import Path

HIPPOCAMPUS = Path(__file__).parents[3] / "shared" / "data" / "hippocampus"
NUM_CASES, NUM_LEARNED = 40, 32


def link_cases(source: Path, folder: Path, *, count: int = NUM_CASES) -> Path:
    """Links to some of the cases of a task of the Decathlon, drawn with a fixed seed.

    Args:
        source: Folder of the task.
        folder: Gets ``data`` and ``splits.json``.
        count: How many cases.

    Returns:
        The folder with the cases.
    """
    data = folder / "data"
    facts = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    chosen = random.Random(0).sample(facts["training"], count)
    for files in chosen:
        for file in files.values():
            link = data / file
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to((source / file).resolve())
    facts |= {"training": sorted(chosen, key=lambda files: files["image"]), "numTraining": count}
    (data / "dataset.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    names = [Path(files["image"]).name.removesuffix(".nii.gz") for files in chosen]
    learned = count * NUM_LEARNED // NUM_CASES
    split = {"train": sorted(names[:learned]), "val": sorted(names[learned:])}
    (folder / "splits.json").write_text(json.dumps([split], indent=1), encoding="utf-8")
    return data


def learned_cases(folder: Path) -> list[str]:
    """The cases of a folder of :func:`link_cases` that are learned from."""
    split = json.loads((folder / "splits.json").read_text(encoding="utf-8"))[0]
    return list(split["train"])
