"""Learning from patches, within a budget of epochs or minutes."""
