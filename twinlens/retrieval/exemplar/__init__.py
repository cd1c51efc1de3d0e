"""Queries made of pictures: exemplar SVMs, closed forms, Rocchio.

A picture's score is its inner product with the query's weights, so every method here ends in rows
that are searched for like any other vector.
"""

from __future__ import annotations

from twinlens.retrieval.exemplar.closed_form import lda_whitened, ridge, rocchio, unit, weighted_sum
from twinlens.retrieval.exemplar.examples import Examples
from twinlens.retrieval.exemplar.svm import Fitted, fit

__all__ = ["Examples", "Fitted", "fit", "lda_whitened", "ridge", "rocchio", "unit", "weighted_sum"]
