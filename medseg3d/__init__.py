"""medseg3d: learn, predict and score segmentations of 3D medical images."""

__version__ = "0.1.0"
