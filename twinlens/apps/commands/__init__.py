"""Commands of `python -m twinlens` that have a module of their own."""
