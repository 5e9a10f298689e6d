"""Fit, predict and score: the only place where the parts are put together.

Each verb is imported when it is first used, so that ``score`` does not wait for torch nor
``predict`` for lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg3d.api.checking import CheckReport, check
    from medseg3d.api.contest.run import Bakeoff, bakeoff
    from medseg3d.api.downloading import Download, download
    from medseg3d.api.fitting.rehearsal import Rehearsal, rehearse
    from medseg3d.api.fitting.run import Run, fit
    from medseg3d.api.models import export, info, info_rows
    from medseg3d.api.predicting.prediction_batch import Prediction
    from medseg3d.api.predicting.run import predict
    from medseg3d.api.reviewing import Review, review
    from medseg3d.api.scoring.comparing import CompareResult, compare
    from medseg3d.api.scoring.run import ScoreResult, score

__all__ = [
    "Bakeoff",
    "CheckReport",
    "CompareResult",
    "Download",
    "Prediction",
    "Rehearsal",
    "Review",
    "Run",
    "ScoreResult",
    "bakeoff",
    "check",
    "compare",
    "download",
    "export",
    "fit",
    "info",
    "info_rows",
    "predict",
    "rehearse",
    "review",
    "score",
]

_HOMES = {
    "Bakeoff": "contest.run",
    "bakeoff": "contest.run",
    "CheckReport": "checking",
    "check": "checking",
    "CompareResult": "scoring.comparing",
    "compare": "scoring.comparing",
    "Download": "downloading",
    "download": "downloading",
    "Run": "fitting.run",
    "fit": "fitting.run",
    "export": "models",
    "info": "models",
    "info_rows": "models",
    "Prediction": "predicting.prediction_batch",
    "predict": "predicting.run",
    "Rehearsal": "fitting.rehearsal",
    "rehearse": "fitting.rehearsal",
    "Review": "reviewing",
    "review": "reviewing",
    "ScoreResult": "scoring.run",
    "score": "scoring.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
