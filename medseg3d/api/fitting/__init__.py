"""``fit``: from the check of the cases to the model, and what it says on the way."""
