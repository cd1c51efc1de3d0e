"""Image-to-text models of transformers behind one interface."""
