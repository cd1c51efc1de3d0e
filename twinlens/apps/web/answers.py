"""Searches of the page and their answers by the indexes: no requests, no HTML."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import simplejpeg

from twinlens.apps.web.shelf import IndexName, Shelf
from twinlens.core.errors import QueryError, TwinLensError
from twinlens.indexing.results import Picture, Results
from twinlens.indexing.validate import MAX_IMAGE_BYTES, read_image

log = logging.getLogger("twinlens")

MAX_MARKS = 64
FULL = f"{MAX_MARKS} pictures are marked, and that is all there can be: take a mark away first"
TOO_LARGE = f"the picture has over {MAX_IMAGE_BYTES // 2**20} MB: make it smaller"
NOT_TAKEN = "the picture is not as this page made it: drop it once more"
FAILED = "something went wrong that should not have; the terminal in which the page was started says what"


@dataclass(frozen=True)
class VisualQuery:
    """The visual part of a visitor's query: a picture of their own, and marked pictures of the pool."""

    picture: bytes | None = None  # JPEG, as `resize` would make it
    marks: tuple[tuple[str, bool], ...] = ()  # image id, and whether it is relevant; in the order of marking
    mended: tuple[str, ...] = ()  # what had to be done to the picture before it could be searched by

    @property
    def liked(self) -> tuple[str, ...]:
        """Ids marked as relevant."""
        return tuple(image_id for image_id, relevant in self.marks if relevant)

    @property
    def disliked(self) -> tuple[str, ...]:
        """Ids marked as not relevant."""
        return tuple(image_id for image_id, relevant in self.marks if not relevant)

    @property
    def has_examples(self) -> bool:
        """Whether there is something that an exemplar SVM can learn from."""
        return bool(self.liked) or self.picture is not None

    def with_mark(self, image_id: str, relevant: bool) -> VisualQuery:
        """Return a copy with one mark set or turned.

        Raises:
            QueryError: there are as many marks as can be.
        """
        others = tuple(mark for mark in self.marks if mark[0] != image_id)
        if len(others) >= MAX_MARKS:
            raise QueryError(FULL)
        return replace(self, marks=(*others, (image_id, relevant)))


@dataclass(frozen=True)
class SearchRequest:
    """One search request."""

    text: str
    asked: VisualQuery
    mode: str
    image_weight: float
    k: int

    @property
    def empty(self) -> bool:
        """Whether there is nothing to search for."""
        return not self.text.strip() and self.asked == VisualQuery()


@dataclass(frozen=True)
class Column:
    """Answer of one index, or the reason why there is none."""

    name: str
    results: Results | None
    problem: str | None
    seconds: float  # all of it: what the asker waits for, but for the browser


def turn_to_examples(wanted: SearchRequest) -> SearchRequest:
    """Turn a search into one by example: an exemplar SVM where an item is relevant; else the marks move the words."""
    return replace(wanted, mode="exemplar" if wanted.asked.has_examples else "vector")


def choose_mode(mode: str, asked: VisualQuery) -> str:
    """Choose the mode to go on in: "exemplar" ends with its last example, or the next words could not be searched."""
    return "auto" if mode == "exemplar" and not asked.has_examples else mode


def answer(shelf: Shelf, names: Sequence[IndexName], wanted: SearchRequest) -> list[Column]:
    """Ask every index the same; one that cannot answer gives the reason in its column."""
    return [_column(shelf, name, wanted) for name in names]


def _column(shelf: Shelf, name: IndexName, wanted: SearchRequest) -> Column:
    started = time.perf_counter()
    found, problem = None, None
    try:
        searcher, notes = shelf.open(name)
        found = searcher.search(
            wanted.text,
            image=wanted.asked.picture,
            like=wanted.asked.liked,
            unlike=wanted.asked.disliked,
            mode=wanted.mode,
            image_weight=wanted.image_weight,
            k=wanted.k,
        )
        found = replace(found, notes=(*notes, *wanted.asked.mended, *found.notes))
    except TwinLensError as error:
        problem = str(error)
    except Exception:  # the visitor gets a sentence, the terminal what happened
        log.exception("a search failed")
        problem = FAILED
    return Column(shelf.label(name), found, problem, time.perf_counter() - started)


def take_picture(shelf: Shelf, raw: bytes) -> tuple[bytes, list[str]]:
    """Convert a visitor's picture to JPEG bytes, and say what had to be mended.

    Args:
        shelf: its dataset says how large a picture may be.
        raw: the bytes of a file.

    Raises:
        QueryError: it is no picture that can be used.
    """
    if len(raw) > MAX_IMAGE_BYTES:
        raise QueryError(TOO_LARGE)
    return read_image(raw, shelf.params.resize.at_most(shelf.params.datasets[shelf.dataset].shortest_side_px))


def refuse_untaken(shelf: Shelf, picture: bytes) -> None:
    """Refuse a picture that `take_picture` could not have made, judged by its header.

    Each search opens the picture that it brings, more of them at once than pictures are opened otherwise.

    Raises:
        QueryError: it is no JPEG, or larger than one would be.
    """
    limits = shelf.params.resize.at_most(shelf.params.datasets[shelf.dataset].shortest_side_px)
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(picture)
    except ValueError:
        height, width = 0, 0
    largest = limits.shortest_side_px or max(height, width)
    if not 0 < min(height, width) <= largest or height * width > limits.max_megapixels * 1e6:
        raise QueryError(NOT_TAKEN)


def choose_pictures(shelf: Shelf, name: IndexName, count: int) -> list[Picture]:
    """Choose pictures to begin with, spread evenly over the pool."""
    index = shelf.searcher(name).index
    rows = index.manifest.rows
    count = min(count, rows)
    return index.pictures([place * rows // count for place in range(count)])
