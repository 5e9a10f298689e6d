"""Networks of densely connected blocks."""
