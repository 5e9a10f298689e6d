"""Versions of the software that made something, to be told beside it."""

import platform
from collections.abc import Iterable
from importlib.metadata import version

from medseg3d import __version__


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of medseg3d, of Python and of installed packages, by name.

    Examples:
        >>> list(versions_of(["numpy"]))
        ['medseg3d', 'python', 'numpy']
    """
    installed = {package: version(package) for package in packages}
    return {"medseg3d": __version__, "python": platform.python_version()} | installed
