"""What the files around the package promise to each other."""

import re
import subprocess
import tomllib
from pathlib import Path

import medseg3d

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def normal(name: str) -> str:
    """Name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pairs}


def requirements() -> list[str]:
    project = PROJECT["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"]]


def test_newest_changes_are_those_of_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\]", text, flags=re.MULTILINE)
    assert versions[0] == medseg3d.__version__


def test_automatic_tests_run_what_the_readme_says() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Tests", 1)[1]
    [told] = re.findall(r"```bash\n(.*?)\n```", section.split("\n## ")[0], flags=re.DOTALL)
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == told


def test_every_requirement_is_pinned() -> None:
    names = [normal(re.split(r"[<>=\[ ]", line)[0]) for line in requirements()]
    assert [name for name in names if name not in {*pins(), "medseg3d"}] == []


def test_pins_bring_no_gpu_libraries() -> None:
    heavy = re.compile("nvidia|cuda|triton|torchvision")
    assert [name for name in pins() if heavy.search(name)] == []
    assert "+" not in pins()["torch"]


def test_make_knows_its_targets() -> None:
    for target in ("demo", "test", "bench", "lint", "format", "clean"):
        found = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stderr


def test_scripts_and_licence_are_there() -> None:
    assert PROJECT["project"]["scripts"] == {"medseg3d": "medseg3d.__main__:main"}
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
