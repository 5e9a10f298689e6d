"""Grids, orientations and resampling."""
