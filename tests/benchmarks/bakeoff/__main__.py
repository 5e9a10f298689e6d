"""All networks on 40 hippocampus cases, 32 to learn from and 8 held out, by one recipe.

Makes a folder with links to the cases and a file with the split, then runs ``medseg3d bakeoff``
with ``pipelines/bakeoff.yaml``. Repeat the command after an interruption; takes about 4 minutes
for each network.

::

    python -m tests.benchmarks.bakeoff                                # all networks, 3 minutes
    python -m tests.benchmarks.bakeoff --networks vnet --max-minutes 5
"""

import json
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared" / "data" / "hippocampus"
FOLDER = Path("build/bench-bakeoff")
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


def main() -> int:
    """Make the folder and run the command; further arguments are the command's."""
    data = link_cases(SHARED, FOLDER)
    command = [sys.executable, "-m", "medseg3d", "bakeoff", str(data), "-o", str(FOLDER / "runs")]
    command += ["--config", str(ROOT / "pipelines" / "bakeoff.yaml")]
    command += ["--set", f"fit.splits={FOLDER / 'splits.json'}"]
    return subprocess.run([*command, *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
