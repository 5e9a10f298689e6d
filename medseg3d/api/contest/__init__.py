"""``bakeoff``: several networks by one recipe."""
