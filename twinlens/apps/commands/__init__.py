"""Commands of `twinlens` that have a module of their own."""
