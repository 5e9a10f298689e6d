"""Every option, defined, typed and documented once for Python, YAML and the command line.

A field whose ``json_schema_extra`` has ``cli`` becomes a flag (or, with ``positional``, an
argument); all others are reached through ``--config FILE.yaml`` and ``--set key=value``.
"""

from medseg3d.config.bakeoff import BakeoffConfig
from medseg3d.config.check import CheckConfig
from medseg3d.config.cleaning import Cleaning
from medseg3d.config.compare import CompareConfig
from medseg3d.config.download import DownloadConfig
from medseg3d.config.export import ExportConfig
from medseg3d.config.files import read_yaml, to_yaml
from medseg3d.config.fit import AugmentationConfig, FitConfig, StageConfig
from medseg3d.config.options import NetworkPart, Options, Part, given, validated
from medseg3d.config.predict import PredictConfig
from medseg3d.config.review import ReviewConfig
from medseg3d.config.score import ScoreConfig

__all__ = [
    "AugmentationConfig",
    "BakeoffConfig",
    "CheckConfig",
    "Cleaning",
    "CompareConfig",
    "DownloadConfig",
    "ExportConfig",
    "FitConfig",
    "NetworkPart",
    "Options",
    "Part",
    "PredictConfig",
    "ReviewConfig",
    "ScoreConfig",
    "StageConfig",
    "given",
    "read_yaml",
    "to_yaml",
    "validated",
]
