"""What a check found, for people: tables on the terminal and one page for a browser."""
