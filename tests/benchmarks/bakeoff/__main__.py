"""All networks on 40 hippocampus cases, 32 to learn from and 8 held out, by one recipe.

Makes a folder with links to the cases and a file with the split, then runs ``medseg3d bakeoff``
with ``pipelines/bakeoff.yaml``. Repeat the command after an interruption; takes about 4 minutes
for each network.

::

    python -m tests.benchmarks.bakeoff                                # all networks, 3 minutes
    python -m tests.benchmarks.bakeoff --networks vnet --max-minutes 5
"""

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.few_cases import HIPPOCAMPUS, link_cases

ROOT = Path(__file__).parents[3]
FOLDER = Path("build/bench-bakeoff")


def main() -> int:
    """Make the folder and run the command; further arguments are the command's."""
    data = link_cases(HIPPOCAMPUS, FOLDER)
    command = [sys.executable, "-m", "medseg3d", "bakeoff", str(data), "-o", str(FOLDER / "runs")]
    command += ["--config", str(ROOT / "pipelines" / "bakeoff.yaml")]
    command += ["--set", f"fit.splits={FOLDER / 'splits.json'}"]
    return subprocess.run([*command, *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
