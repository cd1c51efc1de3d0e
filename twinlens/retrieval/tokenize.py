"""BM25 tokenizer: the same in the search index and in the evaluated retrievers."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise
from threading import Lock

import snowballstemmer

_STEMMER = snowballstemmer.stemmer("english")
_STEMMING = Lock()  # the stemmer keeps the word that it works on in itself
_WORD = re.compile(r"\w+")

# Scripts that put no blanks between words, with the marks of their vowels and tones, which `\w` leaves out.
_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u3096\u3099-\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_THAI, _LAO, _KHMER = "\u0e01-\u0e3a\u0e40-\u0e4e", "\u0e81-\u0ece\u0edc-\u0edf", "\u1780-\u17d3\u17dc-\u17dd"
_UNSPACED = re.compile(f"[{_HAN}{_KANA}]+|[{_THAI}]+|[{_LAO}]+|[{_KHMER}]+")
_ONE_HAN = re.compile(f"[{_HAN}]")
_CLUSTER = re.compile(r"\w[^\w]*|[^\w]+")  # a letter with its marks is one character


def tokenize(text: str) -> list[str]:
    """Split a text into stemmed words, in order: NFKC-normalised, casefolded, runs of letters, digits, underscores.

    A run of a script that puts no blanks between words is split into all pairs of neighbouring characters; Han
    characters, of which one alone may be a word, stand by themselves too.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    if plain.isascii() or not _UNSPACED.search(plain):
        return [_stem(word) for word in _WORD.findall(plain)]
    found: list[str] = []
    end = 0
    for run in _UNSPACED.finditer(plain):
        found += [_stem(word) for word in _WORD.findall(plain[end : run.start()])]
        found += _pairs(run[0])
        end = run.end()
    return found + [_stem(word) for word in _WORD.findall(plain[end:])]


def _pairs(run: str) -> list[str]:
    characters = _CLUSTER.findall(run)
    if len(characters) == 1:
        return characters
    alone = [character for character in characters if _ONE_HAN.match(character)]
    return alone + [first + second for first, second in pairwise(characters)]


@lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    with _STEMMING:
        return str(_STEMMER.stemWord(word))
