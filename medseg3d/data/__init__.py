"""Cases, plans, preprocessing, the cache and the patches drawn from it."""
