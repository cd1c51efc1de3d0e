"""Handlers of the page's actions. No state of a visitor is kept: the browser sends all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from twinlens.apps.web import markup
from twinlens.apps.web.answers import (
    FULL,
    MAX_MARKS,
    TOO_LARGE,
    SearchRequest,
    VisualQuery,
    answer,
    choose_mode,
    choose_pictures,
    refuse_untaken,
    take_picture,
    turn_to_examples,
)
from twinlens.apps.web.bodies import COUNTS, MAX_TYPED, read_search, read_tray
from twinlens.apps.web.shelf import IndexName, Shelf
from twinlens.core.errors import QueryError, TwinLensError
from twinlens.indexing.validate import MAX_IMAGE_BYTES, MODES, check_name

NO_OTHER = ""  # of the second model
EXAMPLES = 3
MODE_NAMES = {
    "auto": "Auto",
    "vector": "Vector",
    "text": "Words (BM25)",
    "hybrid": "Hybrid",
    "exemplar": "Exemplars (SVM)",
}
DESCRIPTION = "Search pictures by words, by a picture, by both, or by examples that you mark."
EMPTY = "The query is empty: type some words, drop a picture, or click a result"


class Query(Protocol):
    """The query string of an address."""

    def get(self, key: str, default: str) -> str:
        """The value of a key that stands there once."""

    def getlist(self, key: str) -> list[str]:
        """All values of a key."""


class Page:
    """The page over the indexes of a dataset; safe to be used by several threads."""

    def __init__(self, shelf: Shelf, first: IndexName) -> None:
        """A page.

        Args:
            shelf: the indexes that it searches.
            first: the one to begin with, open.
        """
        self.shelf, self.first = shelf, first

    def arrive(self, query: Query) -> str:
        """Render the whole page, with the search its address asks for: `?q=words&like=id&unlike=id&mode=hybrid`."""
        words, wish, asked = query.get("q", "")[:MAX_TYPED], query.get("mode", "auto"), VisualQuery()
        mode, results, status = "auto", None, ""
        try:
            for key, relevant in (("like", True), ("unlike", False)):
                for image_id in query.getlist(key):
                    asked = asked.with_mark(self._known(image_id), relevant)
            mode = check_name(wish, MODES, "mode")
            wanted = SearchRequest(words, asked, mode, self.shelf.params.rank.image_weight, COUNTS[0])
            if not wanted.empty:
                results, said = self._found(wanted, [self.first])
                status = markup.render_message(said)
        except TwinLensError as error:
            status = markup.render_problem(str(error))
        parts = {
            "header": markup.render_header(self.shelf.dataset, self.shelf.searcher(self.first).index.manifest.rows),
            "drop": markup.render_drop(None),
            "tray": self._tray(asked.marks),
            "status": status,
            "results": results or self._beginning(),
        }
        return markup.render_page(parts, words=words, mode=mode, **self._settings())

    def search(self, body: bytes) -> dict[str, Any]:
        """Results, the sentence on them, and the mode to go on in.

        Raises:
            BodyError: the page would not ask so.
            TwinLensError: it cannot be searched for.
        """
        said, picture = read_search(body)
        wanted = turn_to_examples(said.to_request(picture)) if said.again else said.to_request(picture)
        if wanted.empty:
            raise QueryError(EMPTY)
        if picture is not None:
            refuse_untaken(self.shelf, picture)
        for image_id, _ in wanted.asked.marks:
            self._known(image_id)
        names = [self.shelf.find(key) for key in dict.fromkeys((said.model, said.other)) if key != NO_OTHER]
        results, status = self._found(wanted, names)
        return {"results": results, "status": status, "mode": wanted.mode}

    def tray(self, body: bytes) -> dict[str, Any]:
        """The marked pictures, the sentence on them, and the mode to go on in.

        Raises:
            BodyError: the page would not ask so.
            QueryError: one of them is not in the pool.
        """
        said = read_tray(body)
        asked, count = VisualQuery(b"" if said.pictured else None, said.pairs), len(said.marks)
        status = f"{count} picture{'s' * (count != 1)} marked" if count else "No picture is marked"
        return {"tray": self._tray(asked.marks), "status": status, "mode": choose_mode(said.mode, asked)}

    def picture(self, raw: bytes) -> dict[str, Any]:
        """The drop area with a visitor's own picture in it, and what had to be mended.

        Raises:
            TwinLensError: it cannot be used.
        """
        jpeg, mended = take_picture(self.shelf, raw)
        return {"drop": markup.render_drop(jpeg), "mended": mended}

    def _found(self, wanted: SearchRequest, names: Sequence[IndexName]) -> tuple[str, str]:
        columns = answer(self.shelf, names, wanted)
        if len(columns) == 1 and columns[0].problem is not None:
            raise QueryError(columns[0].problem)
        return markup.render_results(columns), markup.summarise_search(columns)

    def _beginning(self) -> str:
        pictures = choose_pictures(self.shelf, self.first, COUNTS[0])
        captions = [picture.captions[0] for picture in pictures if picture.captions]
        return markup.render_beginning(pictures, captions[:EXAMPLES])

    def _known(self, image_id: str) -> str:
        """The id, if it is in the index; else a QueryError."""
        return self.shelf.searcher(self.first).picture(image_id).image_id

    def _tray(self, marks: Sequence[tuple[str, bool]]) -> str:
        searcher = self.shelf.searcher(self.first)
        return markup.render_tray([(searcher.picture(image_id), relevant) for image_id, relevant in marks])

    def _settings(self) -> Mapping[str, Any]:
        indexes = [(name.key, self.shelf.label(name)) for name in self.shelf.names()]
        return {
            "modes": [(mode, MODE_NAMES[mode]) for mode in ("auto", *self.shelf.searcher(self.first).modes)],
            "weight": self.shelf.params.rank.image_weight,
            "indexes": indexes,
            "others": [(NO_OTHER, "nothing"), *indexes],
            "first": self.first.key,
            "dataset": self.shelf.dataset,
            "description": DESCRIPTION,  # which a preview of a link shows
            "counts": [(count, count) for count in COUNTS],
            "limits": {"typed": MAX_TYPED, "marks": MAX_MARKS, "bytes": MAX_IMAGE_BYTES},
            "sentences": {"marks": FULL, "bytes": TOO_LARGE},
        }
