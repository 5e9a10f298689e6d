"""Networks that know several answers and draw one of them."""
