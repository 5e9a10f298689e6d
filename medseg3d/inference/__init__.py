"""Whole volumes from a network that sees windows."""
