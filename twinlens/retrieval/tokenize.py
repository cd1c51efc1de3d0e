"""BM25 tokenizer: the same in the search index and in the evaluated retrievers."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from threading import Lock

import snowballstemmer

_STEMMER = snowballstemmer.stemmer("english")
_STEMMING = Lock()  # the stemmer keeps the word that it works on in itself
_WORD = re.compile(r"\w+")


def tokenize(text: str) -> list[str]:
    """Split a text into stemmed words, in order: NFKC-normalised, casefolded, runs of letters, digits, underscores."""
    return [_stem(word) for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold())]


@lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    with _STEMMING:
        return str(_STEMMER.stemWord(word))
