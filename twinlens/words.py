"""Words of a text as BM25 counts them: the same for documents and for queries."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import snowballstemmer

WORD = re.compile(r"\w+")
_STEMMER = snowballstemmer.stemmer("english")


def words(text: str) -> list[str]:
    """The words of a text in order: NFKC-normalised, case-folded, runs of letters, digits and _, English stems."""
    return [_stem(word) for word in WORD.findall(unicodedata.normalize("NFKC", text).casefold())]


@lru_cache(maxsize=2**17)
def _stem(word: str) -> str:
    return str(_STEMMER.stemWord(word))
