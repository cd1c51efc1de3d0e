"""Captioners: image-to-text models of transformers behind one interface."""
