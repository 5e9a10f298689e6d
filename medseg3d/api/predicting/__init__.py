"""``predict``: which cases, with what memory, one after the other, and what is told of each."""
