"""TwinLens: which image-text embedding, fed with what, finds the right picture, and what it costs.

As a library:

>>> from twinlens import search                              # doctest: +SKIP
>>> for hit in search("a red boat on a beach", k=5).hits:    # doctest: +SKIP
...     print(hit.rank, hit.image_id, hit.score, hit.captions)

>>> import twinlens                                                                         # doctest: +SKIP
>>> print(twinlens.evaluate(image_vectors, text_vectors, right_picture))                    # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinlens.core.errors import QueryError as QueryError
    from twinlens.evaluation.arrays import Evaluation as Evaluation
    from twinlens.evaluation.arrays import evaluate as evaluate
    from twinlens.indexing.results import Hit as Hit
    from twinlens.indexing.results import Results as Results
    from twinlens.indexing.searcher import Searcher as Searcher
    from twinlens.indexing.session import search as search

__version__ = "0.1.0"

# Where the library's names live; imported when asked for, because every stage and command imports this file.
_HOMES = {
    "Evaluation": "twinlens.evaluation.arrays",
    "Hit": "twinlens.indexing.results",
    "QueryError": "twinlens.core.errors",
    "Results": "twinlens.indexing.results",
    "Searcher": "twinlens.indexing.searcher",
    "evaluate": "twinlens.evaluation.arrays",
    "search": "twinlens.indexing.session",
}
__all__ = ["Evaluation", "Hit", "QueryError", "Results", "Searcher", "evaluate", "search"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'twinlens' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
