"""The doctor for data sets: every case is read once, then each check looks at what was found.

A new check is one function with ``@CHECKS.register("its-code")`` in a module of this package.
It takes a :class:`~medseg3d.data.doctor.facts.Survey` and yields findings.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from medseg3d.registry import Registry

if TYPE_CHECKING:
    from medseg3d.data.doctor.facts import Survey
    from medseg3d.data.doctor.findings import Finding

CHECKS: Registry[Callable[["Survey"], Iterable["Finding"]]] = Registry("check", __name__)
