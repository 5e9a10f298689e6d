"""Volumes in files: read and checked, written whole with the geometry of their source."""

from medseg3d.io.atomic import atomic
from medseg3d.io.formats import OUTPUTS, READ_ONLY, SUFFIXES, case_stem, sources
from medseg3d.io.images import read_grid, read_image, write_image, write_scaled
from medseg3d.io.labels import read_labels, write_labels
from medseg3d.io.volume import Header, LabelVolume, Volume

__all__ = [
    "OUTPUTS",
    "READ_ONLY",
    "SUFFIXES",
    "Header",
    "LabelVolume",
    "Volume",
    "atomic",
    "case_stem",
    "read_grid",
    "read_image",
    "read_labels",
    "sources",
    "write_image",
    "write_labels",
    "write_scaled",
]
