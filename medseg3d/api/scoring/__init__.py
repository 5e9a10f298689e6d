"""``score`` and ``compare``: pairs of label maps, and the tables made of them."""
