"""Which captions are used: those of a kept picture that say something, once each."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import numpy as np
import snowballstemmer
from jaxtyping import Bool

from twinlens.core.id_rows import IdRows
from twinlens.core.spool import Spool, iter_parts, take_parts
from twinlens.datasets.annotations import Annotations, Drop
from twinlens.datasets.readers.texts import explain_struct
from twinlens.datasets.spelling import is_unicode, printable

Chosen = tuple[int, str, str]  # row of the picture, its id, text

_WORD = re.compile(r"\w+")
_STEMMER = snowballstemmer.stemmer("english")


def choose_captions(
    annotations: Annotations, kept: IdRows, ambiguous: Bool[np.ndarray, " images"], dropped: Spool[Drop]
) -> Spool[Chosen]:
    """Choose the usable captions; the rest is added to `dropped`.

    Args:
        annotations: what the dataset's files say.
        kept: the pictures that captions may be of, as rows of the annotations.
        ambiguous: pictures whose id others had too, so that nobody knows whose caption it is.
        dropped: is added to.
    """
    gone = IdRows.of([name for kind, name, *_ in part if kind == "image"] for part in dropped.parts())
    usable = Spool[Chosen](tuple)
    for part in iter_parts(annotations.captions):
        rows = kept.find([caption.image_id for caption in part])
        strange = [printable(caption.image_id) for caption, row in zip(part, rows, strict=True) if row < 0]
        was_dropped = iter((gone.find(strange) >= 0).tolist())
        doubtful = (rows >= 0) & ambiguous[rows] if len(ambiguous) else rows >= 0
        for caption, row, doubted in zip(part, rows.tolist(), doubtful.tolist(), strict=True):
            text = " ".join(caption.text.split())
            if doubted:
                why = "ambiguous_id", f"several pictures have this id, of which is it? {_show(text)}"
            elif row < 0 and next(was_dropped):
                why = "dropped_image", f"its picture was dropped: {_show(text)}"
            elif row < 0:
                why = "unknown_image", f"no such image: {_show(text)}"
            elif not text:
                why = "empty", "empty caption"
            elif not any(map(str.isalnum, text)):
                why = "empty", f"no letter or digit: {_show(text)}"
            elif not is_unicode(text):
                why = "not_utf8", f"not UTF-8: {_show(text)}"
            elif struct := explain_struct(text):
                why = "struct", struct
            else:
                usable.append((row, caption.image_id, text))
                continue
            dropped.append(("caption", printable(caption.image_id), *why))
    return usable if annotations.repeats_meant else _drop_repeats(usable, dropped)


def _show(text: str) -> str:
    return f"{printable(text)[:80]!r}"


def _drop_repeats(captions: Spool[Chosen], dropped: Spool[Drop]) -> Spool[Chosen]:
    """The first caption of a picture that has these words.

    A caption that stands twice would find its picture by its own copy: search by words leaves the caption that asks
    out of its picture's document, and no other.
    """
    pictures = np.fromiter((row for row, *_ in captions), dtype=np.int64, count=len(captions))
    several = np.flatnonzero(np.bincount(pictures)[pictures] > 1)  # of pictures with one caption none is repeated
    is_one = np.zeros(len(captions), dtype=bool)
    is_one[several] = True
    asked = (one for one, asking in zip(captions, is_one.tolist(), strict=True) if asking) if len(several) else ()
    said = IdRows.of([f"{row} {' '.join(list_words(text))}" for row, _, text in part] for part in take_parts(asked))
    first = np.arange(len(captions))
    first[several] = several[said.find_firsts()]
    repeated = first != np.arange(len(captions))
    if not repeated.any():
        return captions
    has_repeats = np.zeros(len(captions), dtype=bool)
    has_repeats[first[repeated]] = True
    texts: dict[int, str] = {}
    different = Spool[Chosen](tuple)
    for number, (row, image_id, text) in enumerate(captions):
        if repeated[number]:
            earlier = texts[int(first[number])]
            dropped.append(("caption", image_id, "repeated", f"{text[:80]!r} has the words of {earlier[:80]!r}"))
            continue
        if has_repeats[number]:
            texts[number] = text
        different.append((row, image_id, text))
    return different


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
