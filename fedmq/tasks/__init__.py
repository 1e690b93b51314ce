"""Tasks and their rows, built in or from a FILE.py."""
