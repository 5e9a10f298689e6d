"""The peers' scripts need their own environment, so ``make bench`` leaves them alone."""

collect_ignore = ["peers"]
