"""medseg3d: learn, predict and score segmentations of 3D medical images.

Examples:
    >>> import medseg3d
    >>> run = medseg3d.fit("cases/", max_minutes=60)  # doctest: +SKIP
    >>> medseg3d.predict("ct.nii.gz", model=run.bundle)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg3d.api import CheckReport, Prediction, Run, ScoreResult, check, fit, predict, score

__version__ = "0.1.0"
__all__ = [
    "CheckReport",
    "Prediction",
    "Run",
    "ScoreResult",
    "__version__",
    "check",
    "fit",
    "predict",
    "score",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from medseg3d import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
