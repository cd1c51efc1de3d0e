"""Annotations as adapters give them: pictures, captions, and what was dropped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

SPLITS = ("train", "val", "test")
# What others call them. Karpathy's `restval` counts as train, as he and everyone after used it.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def read_split(word: str) -> str | None:
    """Read the name of a split, whatever it is called; None where it is none."""
    return SPLIT_WORDS.get(word.strip().casefold())


def find_split(name: str) -> str | None:
    """Find the split that a file's name says, or what stands nearest to it: its folder's, or that one's folder's."""
    words = (word for part in reversed(name.split("/")) for word in re.split(r"[^a-z]+", part.lower()))
    return next(filter(None, map(read_split, words)), None)


def take_split(folders: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take the split out of the folders that a file lies in: the first that is called so, and the others."""
    found = next((place for place, folder in enumerate(folders) if read_split(folder)), None)
    if found is None:
        return None, list(folders)
    return read_split(folders[found]), [*folders[:found], *folders[found + 1 :]]


@dataclass(frozen=True, slots=True)  # of which there are millions
class RawImage:
    """A picture as a dataset's own files list it."""

    image_id: str
    file: str
    split: str
    labels: tuple[str, ...]
    distractor: bool = False  # in the pool to be told apart from others: needs no caption and no label


@dataclass(frozen=True, slots=True)
class RawCaption:
    """A caption as a dataset's own files list it, in their order."""

    image_id: str
    text: str


@dataclass(frozen=True, slots=True)
class RawComposedQuery:
    """A composed query: a picture and a text that says what is to be different, with one picture right for it."""

    query_id: str
    image_id: str
    text: str
    target_id: str
    gain: float = 1.0  # how right it is, above 0


Drop = tuple[str, str, str, str]  # kind (image, caption or query), id, rule, reason: a row of table DROPPED


@dataclass(frozen=True)
class Annotations:
    """All pictures and captions that a dataset's files list, and what was dropped; spools where they are millions."""

    images: Sequence[RawImage]
    captions: Sequence[RawCaption]
    dropped: Sequence[Drop] = field(default_factory=list)  # what the files hold and the adapter cannot use
    captioned: bool = True  # whether pictures of this dataset have captions at all
    # Whether captions of a picture that say the same are several people's, each a query of a published benchmark; in
    # tables of one's own they are copies, as a merge of two exports leaves them.
    repeats_meant: bool = False
    composed_queries: Sequence[RawComposedQuery] = field(default_factory=list)  # a query's rows stand together
