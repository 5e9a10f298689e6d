"""Networks of residual blocks."""
