"""TwinLens: which image-text embedding, fed with what, finds the right picture, and what it costs."""

__version__ = "0.1.0"
