"""Which captions are used: those of a kept picture that say something, once each."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache

import snowballstemmer

from twinlens.datasets.annotations import Annotations, Drop
from twinlens.datasets.readers.texts import explain_struct
from twinlens.datasets.spelling import is_unicode, printable

_WORD = re.compile(r"\w+")
_STEMMER = snowballstemmer.stemmer("english")


def choose_captions(
    annotations: Annotations, kept: Collection[str], ambiguous: Collection[str], dropped: list[Drop]
) -> list[tuple[str, str]]:
    """Choose the usable captions, as pairs of picture and text; the rest is added to `dropped`.

    Args:
        annotations: what the dataset's files say.
        kept: ids of the pictures that captions may be of.
        ambiguous: ids that several pictures had, so that nobody knows whose caption it is.
        dropped: is added to.
    """
    gone = {name for kind, name, *_ in dropped if kind == "image"}
    usable = []
    for caption in annotations.captions:
        text = " ".join(caption.text.split())
        shown = f"{printable(text)[:80]!r}"
        if caption.image_id in ambiguous:
            why = ("ambiguous_id", f"several pictures have this id, of which is it? {shown}")
        elif caption.image_id not in kept and printable(caption.image_id) in gone:
            why = ("dropped_image", f"its picture was dropped: {shown}")
        elif caption.image_id not in kept:
            why = ("unknown_image", f"no such image: {shown}")
        elif not text:
            why = ("empty", "empty caption")
        elif not any(map(str.isalnum, text)):
            why = ("empty", f"no letter or digit: {shown}")
        elif not is_unicode(text):
            why = ("not_utf8", f"not UTF-8: {shown}")
        elif struct := explain_struct(text):
            why = ("struct", struct)
        else:
            usable.append((caption.image_id, text))
            continue
        dropped.append(("caption", printable(caption.image_id), *why))
    return usable if annotations.repeats_meant else list(_without_repeats(usable, dropped))


def _without_repeats(captions: Iterable[tuple[str, str]], dropped: list[Drop]) -> Iterator[tuple[str, str]]:
    """The first caption of a picture that has these words.

    A caption that stands twice would find its picture by its own copy: search by words leaves the caption that asks
    out of its picture's document, and no other.
    """
    firsts: dict[tuple[str, tuple[str, ...]], str] = {}
    for image_id, text in captions:
        first = firsts.setdefault((image_id, list_words(text)), text)
        if first is text:
            yield image_id, text
        else:
            dropped.append(("caption", image_id, "repeated", f"{text[:80]!r} has the words of {first[:80]!r}"))


def list_words(text: str) -> tuple[str, ...]:
    """List the words of a text by their stems.

    They are told apart as search by words tells them (`retrieval/tokenize.py`, which lies above and cannot be imported
    here), but for scripts whose vowels are marks: these stay within their words.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    if plain.isascii():
        return tuple(map(_stem, _WORD.findall(plain)))
    spaced = "".join(c if c.isalnum() or c == "_" or unicodedata.category(c)[0] == "M" else " " for c in plain)
    return tuple(map(_stem, spaced.split()))


@lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    return str(_STEMMER.stemWord(word))
