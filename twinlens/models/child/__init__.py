"""Processes that run a model with code of its own: their program, and the handle by which they are spoken to."""
