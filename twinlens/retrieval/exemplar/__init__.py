"""Queries made of pictures: exemplar SVMs, closed forms, Rocchio.

A picture's score is its inner product with the query's weights, so every method here ends in rows
that are searched for like any other vector.
"""

from __future__ import annotations

from twinlens.retrieval.exemplar.closed_form import combine_unit_vectors, lda_whitened, ridge, rocchio, scale_to_unit
from twinlens.retrieval.exemplar.examples import Examples
from twinlens.retrieval.exemplar.newton import Fitted
from twinlens.retrieval.exemplar.svm import fit_svms

__all__ = [
    "Examples",
    "Fitted",
    "combine_unit_vectors",
    "fit_svms",
    "lda_whitened",
    "ridge",
    "rocchio",
    "scale_to_unit",
]
