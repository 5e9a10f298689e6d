"""Volumes in files: read and checked, written whole with the geometry of their source."""

from medseg3d.io.atomic import atomic
from medseg3d.io.formats import SUFFIXES, case_stem
from medseg3d.io.images import read_grid, read_image, write_image
from medseg3d.io.labels import read_labels, write_labels
from medseg3d.io.volume import Header, LabelVolume, Volume

__all__ = [
    "SUFFIXES",
    "Header",
    "LabelVolume",
    "Volume",
    "atomic",
    "case_stem",
    "read_grid",
    "read_image",
    "read_labels",
    "write_image",
    "write_labels",
]
