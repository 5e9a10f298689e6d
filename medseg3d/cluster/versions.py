"""Client and workers understand each other only if they run the same software."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client

Versions = Mapping[str, str | None]


def versions_here() -> Versions:
    """What workers must have, by name: medseg3d, distributed, and Python's first two numbers."""
    from distributed.versions import get_versions

    return _relevant(get_versions(packages=["medseg3d"])["packages"])


SCHEDULER = "scheduler"


def differences(client: "Client", workers: Iterable[str]) -> dict[str, str]:
    """What is different, in words, on the scheduler and on each worker that answers."""
    wanted = versions_here()
    answers = client.get_versions(packages=["medseg3d"])
    found = {SCHEDULER: answers["scheduler"], **answers["workers"]}
    return {
        address: _difference(wanted, _relevant(found[address]["packages"]))
        for address in (SCHEDULER, *workers)
        if address in found
    }


def _relevant(packages: Versions) -> Versions:
    python = ".".join((packages["python"] or "").split(".")[:2])
    return {
        "medseg3d": packages["medseg3d"],
        "distributed": packages["distributed"],
        "Python": python,
    }


def _difference(wanted: Versions, found: Versions) -> str:
    """What is found in place of what is wanted; empty if they agree.

    Examples:
        >>> _difference({"medseg3d": "0.2.0", "Python": "3.11"}, {"Python": "3.11"})
        'no medseg3d in place of medseg3d 0.2.0'
    """
    return ", ".join(
        f"{_named(name, found.get(name))} in place of {_named(name, version)}"
        for name, version in wanted.items()
        if found.get(name) != version
    )


def _named(name: str, version: str | None) -> str:
    return f"{name} {version}" if version else f"no {name}"
