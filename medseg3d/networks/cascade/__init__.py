"""Several U-shapes one after the other."""
