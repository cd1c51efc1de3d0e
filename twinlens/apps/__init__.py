"""The front doors: `cli.py` and the two below."""
