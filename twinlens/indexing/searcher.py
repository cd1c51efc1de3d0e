"""Searcher: one query in, results out, by vectors, by words, by both, or by examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, cast, get_args

import numpy as np

from twinlens.config.load import read_params
from twinlens.config.params import Params
from twinlens.core.errors import QueryError
from twinlens.indexing import query_vectors
from twinlens.indexing.confidence import Judge
from twinlens.indexing.index import Ranked, WeightedVector
from twinlens.indexing.open import format_rebuild_command, open_index
from twinlens.indexing.query import CheckedQuery, read_text_weight
from twinlens.indexing.query_encoder import QueryEncoder
from twinlens.indexing.results import Hit, Mode, Picture, Results
from twinlens.indexing.validate import (
    FUSIONS,
    MODES,
    check_count,
    check_name,
    check_share,
    clean_text,
    find_rows,
    read_image,
)
from twinlens.retrieval.fusion import reciprocal_rank_fusion
from twinlens.retrieval.scores import order_by_score
from twinlens.retrieval.tokenize import tokenize

if TYPE_CHECKING:
    from twinlens.indexing import validate


class Searcher:
    """An open index with the model that made it; safe to be used by several threads.

    It goes on answering from what it opened while the index is built anew.
    """

    def __init__(
        self,
        dataset: str | None = None,
        model: str | None = None,
        captioner: str | None = None,
        params: Params | None = None,
    ) -> None:
        """Open the index.

        Args:
            dataset: the active name of params.yaml if absent, as the others.
            model: see `dataset`.
            captioner: see `dataset`.
            params: params.yaml, read if absent.

        Raises:
            QueryError: no such name, no such index, or an index of other vectors or weights than are here.
            DataError: the index has to be built here first and cannot be.
        """
        self.params = params or read_params()
        self.dataset = check_name(dataset or self.params.dataset, self.params.datasets, "dataset")
        self.model = check_name(model or self.params.model, self.params.models, "model")
        self.captioner = check_name(captioner or self.params.captioner, self.params.captioners, "captioner")
        names = (self.dataset, self.model, self.captioner)
        self.index = open_index(self.params, *names)
        card, device = self.params.models[self.model], self.params.compute.device
        self.text_weight = read_text_weight(self.params, self.dataset, self.model)
        self.towers = QueryEncoder(card, self.index.manifest, device, format_rebuild_command(self.params, *names))

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that this index allows for some query."""
        possible = {"vector": bool(self.index.spaces), "text": self.index.has_words}
        possible |= {"hybrid": all(possible.values()), "exemplar": possible["vector"]}
        return tuple(mode for mode in get_args(Mode) if possible[mode])

    @property
    def embeds_text(self) -> bool:
        """Whether words can be searched for by vector."""
        return self.towers.reads_text and query_vectors.choose_text_space(self.towers.joint) in self.index.spaces

    @property
    def embeds_pictures(self) -> bool:
        """Whether a picture of the asker's own can be searched by."""
        return self.towers.reads_pictures

    def warm(self) -> None:
        """Load the model and the vectors now rather than at the first query."""
        self.towers.load(text=self.embeds_text, pictures=self.embeds_pictures)
        for space in self.index.spaces:  # one scan brings all pages into memory
            self.index.nearest([WeightedVector(space, self.index.vectors(space, [0])[0])], 1, (), self.params.search)

    def picture(self, image_id: str) -> Picture:
        """Read the record of one picture.

        Raises:
            QueryError: there is no such id; the message has the nearest ones.
        """
        return self.index.pictures(find_rows(image_id, self.index.copy))[0]

    def search(
        self,
        text: str | None = None,
        *,
        image: validate.Picture | None = None,
        like: str | Iterable[str] = (),
        unlike: str | Iterable[str] = (),
        mode: str = "auto",
        k: int = 10,
        image_weight: float | None = None,
        text_weight: float | None = None,
        fusion: str | None = None,
        only_if_sure: float | None = None,
    ) -> Results:
        """Find pictures.

        * `vector`: by the sum of what is given. Words search among pictures where the model puts both into one
          space, else among captions. Liked and disliked pictures move the query (Rocchio). A score is a cosine.
        * `text`: by BM25 over all captions. Pictures that share no word with the query are not found.
        * `hybrid`: both lists fused, by reciprocal ranks or by scores.
        * `exemplar`: by an SVM that is fitted on the liked and disliked pictures, and the words. A score is the
          cosine with its weights.
        * `auto`: `vector`; where the model has no use for the words, `text`, or `hybrid` beside a picture.

        Args:
            text: what is looked for, in words.
            image: a picture to search by: path, bytes of a file, or a PIL image.
            like: ids of pictures that are what is wanted; they are left out of the results.
            unlike: ids of pictures that are not; left out too.
            mode: see above.
            k: pictures wanted.
            image_weight: share of the picture where both are given, 0 to 1; `rank.image_weight` if absent.
            text_weight: share of BM25 in a `weighted` hybrid, 0 to 1; the index's own if absent.
            fusion: of a hybrid: `rrf` or `weighted`; `search.fusion` if absent.
            only_if_sure: nothing is found unless the first picture's `confidence` is at least this. That nothing is
                found then does not mean that nothing is there.

        Raises:
            QueryError: there is nothing to search for, the index cannot be searched for it, or so much is never sure.
        """
        asked = self._check(text, image, like, unlike, k, image_weight, text_weight, fusion)
        chosen = self._mode(check_name(mode, MODES, "mode"), asked)
        with asked.timed("load"):
            embeds = chosen != "text"
            self.towers.load(
                text=embeds and asked.text is not None and self.embeds_text, pictures=embeds and asked.jpeg is not None
            )
        with asked.timed("embed"):
            wanted = self._legs(chosen, asked) if chosen != "text" else []
        judge = Judge.of(self.index, chosen, asked, only_if_sure)
        with asked.timed("search"):
            rows, scores = self._find(chosen, replace(asked, k=max(asked.k, judge.depth)), wanted)
            confidence = judge.rate(scores, asked.notes)
            kept = 0 if judge.refuses(confidence) else asked.k
            rows, scores = rows[:kept], scores[:kept]
        with asked.timed("read"):
            hits = tuple(
                Hit(rank=rank, score=float(score), confidence=confidence if rank == 1 else None, **vars(picture))
                for rank, (picture, score) in enumerate(zip(self.index.pictures(rows), scores, strict=True), start=1)
            )
        notes, seconds = tuple(asked.notes), asked.seconds
        return Results(
            hits=hits,
            mode=chosen,
            dataset=self.dataset,
            model=self.model,
            captioner=self.captioner,
            seconds=seconds,
            notes=notes,
        )

    def _check(
        self,
        text: str | None,
        image: validate.Picture | None,
        like: str | Iterable[str],
        unlike: str | Iterable[str],
        k: int,
        image_weight: float | None,
        text_weight: float | None,
        fusion: str | None,
    ) -> CheckedQuery:
        defaults = self.params.search
        cleaned, notes = clean_text(text)
        limits = self.params.resize.at_most(self.params.datasets[self.dataset].shortest_side_px)
        jpeg, mended = (None, []) if image is None else read_image(image, limits)
        likes, unlikes = find_rows(like, self.index.copy), find_rows(unlike, self.index.copy)
        if both := set(likes) & set(unlikes):
            raise QueryError(
                f"{self.index.pictures([min(both)])[0].image_id!r} is both liked and disliked: leave one out"
            )
        return CheckedQuery(
            text=cleaned,
            jpeg=jpeg,
            likes=likes,
            unlikes=unlikes,
            image_weight=check_share(
                self.params.rank.image_weight if image_weight is None else image_weight, "image_weight"
            ),
            text_weight=check_share(self.text_weight if text_weight is None else text_weight, "text_weight"),
            fusion=check_name(fusion or defaults.fusion, FUSIONS, "fusion"),
            k=min(check_count(k, "k"), self.index.manifest.rows),
            notes=[*notes, *mended],
        )

    def _mode(self, mode: str, asked: CheckedQuery) -> Mode:
        """Choose what is searched, once it is clear that it can be.

        Raises:
            QueryError: it cannot; the message says what can.
        """
        if asked.text is None and not asked.shows:
            if asked.unlikes:
                raise QueryError("only what is not wanted is given: add words, a picture, or one that is wanted")
            raise QueryError("the query is empty: give words, a picture, or indexed pictures that are wanted")
        vectors = asked.shows or (asked.text is not None and self.embeds_text)
        if mode == "auto":
            by_words = asked.text is not None and not self.embeds_text and self.index.has_words
            mode = ("hybrid" if vectors else "text") if by_words else "vector"
        if mode == "text" and (asked.shows or asked.unlikes):
            raise QueryError("mode 'text' searches for words only: leave out pictures, or take mode 'hybrid'")
        if mode in ("text", "hybrid"):
            self._refuse_without_words(mode, asked)
        if mode == "exemplar" and not asked.shows:
            raise QueryError("mode 'exemplar' learns from pictures: give one that is wanted, or take mode 'auto'")
        if mode != "text":
            self._refuse_without_vectors(mode, asked, vectors)
        return cast(Mode, mode)

    def _refuse_without_words(self, mode: str, asked: CheckedQuery) -> None:
        if asked.text is None:
            raise QueryError(f"mode '{mode}' searches for words: give text, or take mode 'vector'")
        if not self.index.has_words:
            raise QueryError(f"{self.dataset} has no captions that could be searched for words: take mode 'vector'")
        if mode == "text" and not tokenize(asked.text):
            raise QueryError(f"{asked.text[:80]!r} holds no word that captions could be searched for")

    def _refuse_without_vectors(self, mode: str, asked: CheckedQuery, vectors: bool) -> None:
        if asked.jpeg is not None and not self.embeds_pictures:
            why = "has vectors from files only" if self.towers.stored else "has no image tower"
            raise QueryError(f"{self.model} {why}: it searches by indexed pictures only, not by one of yours")
        if not vectors:
            why = " (its vectors are from files: it embeds no new words)" if self.towers.stored else ""
            raise QueryError(f"{self.model} cannot search for words in mode '{mode}'{why}: take mode 'text'")
        if not self.index.spaces:
            raise QueryError(f"the index of {self.dataset} with {self.model} holds no vectors: take mode 'text'")

    def _legs(self, mode: Mode, asked: CheckedQuery) -> list[WeightedVector]:
        text = None
        if asked.text is not None and self.embeds_text:
            text, notes = self.towers.text(asked.text)
            asked.notes += notes
        elif asked.text is not None and mode != "hybrid":
            asked.notes.append(f"{self.model} has no use for the words here: they are left out")
        picture = None if asked.jpeg is None else self.towers.picture(asked.jpeg)
        query = query_vectors.EmbeddedQuery(text, picture, asked.likes, asked.unlikes, asked.image_weight)
        if mode != "exemplar":
            return query_vectors.sum_feedback(query, self.index, self.params, self.towers.joint)
        found, notes = query_vectors.fit_exemplars(query, self.index, self.params, self.towers.joint)
        asked.notes += notes
        return found

    def _find(self, mode: Mode, asked: CheckedQuery, wanted: list[WeightedVector]) -> Ranked:
        if mode in ("vector", "exemplar"):
            return self.index.nearest(wanted, asked.k, asked.left_out, self.params.search)
        tokens = tokenize(asked.text or "")
        if not self.index.postings.knows(tokens):
            asked.notes.append("no caption holds any of these words")
        if mode == "text":
            return self.index.search_words(tokens, asked.k, asked.left_out)
        if asked.fusion == "weighted":
            weight = 1.0 - asked.text_weight
            return self.index.search_weighted(wanted, tokens, asked.k, asked.left_out, weight, self.params.search)
        return self._by_ranks(wanted, tokens, asked)

    def _by_ranks(self, wanted: list[WeightedVector], tokens: list[str], asked: CheckedQuery) -> Ranked:
        fusion = self.params.hybrid
        depth = max(asked.k, fusion.rrf_depth)
        lists = [
            self.index.nearest(wanted, depth, asked.left_out, self.params.search)[0],
            self.index.search_words(tokens, depth, asked.left_out)[0],
        ]
        fused = reciprocal_rank_fusion([rows[None] for rows in lists], self.index.manifest.rows, fusion.rrf_constant)
        found = np.union1d(*lists).astype(np.int64)
        rows, scores = order_by_score(found[None], fused[:, found])
        return rows[0, : asked.k], scores[0, : asked.k]
