"""Retrievers of category search: by a class's name, by exemplar pictures, or by both.

| searched by | the query's vector |
|---|---|
| `text` | the class's prompt |
| `exemplar` | the mean of the exemplars |
| `exemplar_and_text` | the normalised sum of both |
| `rocchio` | text (without one: exemplar) + exemplars - negatives, each weighed |
| `exemplar_ridge` | least squares of exemplars against negatives |
| `exemplar_lda` | the exemplars whitened by the negatives |
| `exemplar_svm` | squared hinge of exemplars against negatives |
| `exemplar_svm_and_text` | the same, pulled towards the text |

`text_untrained` and `exemplar_untrained` are the same by a trained model as it was before.

`exemplar_svm`, `exemplar_svm_and_text` and `exemplar_ridge` fit an intercept beside the weights, as source 003 did:
regularised in a plain SVM (its library's default), free in the combined loss. It adds the same to all scores of a query
and is left out of them.

All of them search with the same queries, each a class with exemplars of its own, so that any two can
be compared query by query; `text` has the same vector for all queries of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from jaxtyping import Float64, UInt8

from twinlens.config.params import CategoryCard, Params
from twinlens.core.resources import ensure_memory
from twinlens.core.vectors import Vectors
from twinlens.retrieval import exemplar
from twinlens.retrieval.base import Corpus, Dense, Retriever, costs_of
from twinlens.retrieval.fitted import BLOCK, LATE, OVERRULED, Fit, FittedRows
from twinlens.tasks.base import Task
from twinlens.tasks.category_search import PUBLISHED_NEGATIVES
from twinlens.tasks.inputs import CLASSES, IMAGES, NEGATIVES, UNTRAINED
from twinlens.tasks.qrels import Groups

TOLERANCE = 1e-4
ALONE = ("text", "exemplar")  # those that are made of one input, and searched by the model before training too
PUBLISHED = ("text", "exemplar", "exemplar_svm", "exemplar_svm_and_text")  # what the article has

Matrix = Float64[np.ndarray, "rows dim"]


def retrievers(task: Task, corpus: Corpus, params: Params) -> list[Retriever]:
    """List the retrievers that there are vectors for, of a task whose queries show pictures of a class."""
    if task.shown is None or IMAGES not in corpus.vectors:
        return []
    published = task.about.published_of is not None
    card = params.category_search.as_published if published else params.category_search.standard
    assert card is not None
    found = _searching(_Side(task, corpus.vectors, card), PUBLISHED if published else None)
    before = {own: corpus.vectors[own + UNTRAINED] for own in (IMAGES, CLASSES) if own + UNTRAINED in corpus.vectors}
    if IMAGES in before and not published:
        again = _searching(_Side(task, before, card), ALONE)
        found += [replace(one, name=f"{one.name}{UNTRAINED}", untrained_of=one.name) for one in again]
    return found


def _searching(side: _Side, names: tuple[str, ...] | None) -> list[Retriever]:
    return [
        Retriever(
            name,
            side.searching(make, whole=not name.startswith("exemplar_svm")),
            (IMAGES,),
            costs_of((IMAGES,)),
            asks=side.list_asked(name),
            fitted=name != "text",
        )
        for name, make in side.ways().items()
        if names is None or name in names
    ]


def _fit_plainly(make: Callable[[slice], Matrix], some: slice) -> Fit:
    made = make(some)
    return Fit(made, np.zeros(len(made), dtype=np.uint8))


def list_troubles(flags: UInt8[np.ndarray, " queries"]) -> list[str]:
    """List in words what is to be told of fits: see `FittedRows.read_flags`."""
    late, overruled = (int(np.count_nonzero(flags & flag)) for flag in (LATE, OVERRULED))
    told = [f"{late} of {len(flags)} queries did not come within {TOLERANCE:g}: raise lambda_w"] if late else []
    return told + ([f"the text overrules the exemplars of {overruled} queries: lower lambda_q"] if overruled else [])


@dataclass(frozen=True)
class _Side:
    """The vectors of one protocol, in its own scaling, and the ways to make a query of them."""

    task: Task
    vectors: Mapping[str, Vectors]
    card: CategoryCard

    def ways(self) -> dict[str, Callable[[slice], Fit]]:
        """Makers of each retriever's queries, where there are vectors for them."""
        card, text, apart = self.card, CLASSES in self.vectors, len(self.negatives) > 1
        lambda_svm = 1.0 / (2.0 * card.svm_c)
        ways: dict[str, tuple[bool, Callable[[slice], Matrix]]] = {
            "text": (text, lambda some: self.texts[some]),
            "exemplar": (True, lambda some: self.centres[some]),
            "exemplar_and_text": (
                text,
                lambda some: exemplar.combine_unit_vectors(self.centres[some], self.texts[some], card.image_weight),
            ),
            "rocchio": (
                apart,
                lambda some: exemplar.rocchio(
                    self.examples[some], self.negatives, (self.texts if text else self.centres)[some], *card.rocchio
                ),
            ),
            "exemplar_ridge": (
                apart,
                lambda some: exemplar.ridge(self.examples[some], self.negatives, lambda_svm, "regularised"),
            ),
            "exemplar_lda": (
                apart,
                lambda some: exemplar.lda_whitened(self.examples[some], self.negatives, card.shrinkage),
            ),
        }
        found = {name: partial(_fit_plainly, make) for name, (possible, make) in ways.items() if possible}
        svms: dict[str, tuple[bool, Callable[[slice], Fit]]] = {
            "exemplar_svm": (apart, lambda some: self._fit_svms(some, lambda_svm, 0.0)),
            "exemplar_svm_and_text": (
                text and apart,
                lambda some: self._fit_svms(some, card.lambda_w, card.lambda_q),
            ),
        }
        return found | {name: make for name, (possible, make) in svms.items() if possible}

    def list_asked(self, name: str) -> tuple[str, ...]:
        """What a query of one way is fed as: the class's prompt, its exemplars, or both."""
        if name == "text":
            return (CLASSES,)
        words = name.endswith("_and_text") or (name == "rocchio" and CLASSES in self.vectors)
        return (IMAGES, CLASSES) if words else (IMAGES,)

    def searching(self, fit: Callable[[slice], Fit], whole: bool) -> Callable[[], Dense]:
        """Unit queries, and items no longer than 1: the order stays, and scores are as exact as cosines.

        Args:
            fit: of some queries.
            whole: whether all queries are fitted at once, as they share most of the work.
        """

        def fit_unit(some: slice) -> Fit:
            made = fit(some)
            return Fit(exemplar.scale_to_unit(made.weights), made.flags)

        def scorer() -> Dense:
            longest = np.linalg.norm(self.items, axis=1).max()
            count = len(self.examples)  # which threads ask for later
            queries = FittedRows(fit_unit, (count, self.items.shape[1]), count if whole else BLOCK)
            return Dense(queries, (self.items / longest).astype(np.float32))

        return scorer

    @property
    def shown(self) -> list[list[str]]:
        """The exemplars of every query."""
        assert self.task.shown is not None
        return self.task.shown

    @property
    def classes(self) -> list[str]:
        """The class of every query."""
        assert isinstance(self.task.qrels, Groups) and self.task.group_names is not None
        return [self.task.group_names[code] for code in self.task.qrels.query_groups]

    def _fit_svms(self, some: slice, lambda_w: float, lambda_q: float) -> Fit:
        # A query or two that crawl must not cost the run: they search from where they came to, and are counted.
        fitted = exemplar.fit_svms(
            self.examples[some],
            self.negatives,
            lambda_w=lambda_w,
            intercept="free" if lambda_q else "regularised",
            texts=self.texts[some] if lambda_q else None,
            lambda_q=lambda_q,
            tolerance=TOLERANCE,
            strict=False,
        )
        flags = LATE * ~(fitted.residuals <= TOLERANCE) + OVERRULED * fitted.overruled.astype(np.uint8)
        return Fit(fitted.weights, flags.astype(np.uint8))

    @cached_property
    def centres(self) -> Matrix:
        """The mean exemplar of every query."""
        return self.examples.centres()[0]

    @cached_property
    def examples(self) -> exemplar.Examples:
        """Examples of every query."""
        return exemplar.Examples.of([self._pictures(own) for own in self.shown])

    @cached_property
    def items(self) -> Matrix:
        """Vectors that are ranked."""
        return self._pictures(self.task.item_ids)

    @cached_property
    def texts(self) -> Matrix:
        """The prompt of every query's class; never scaled by columns, as the article's were not."""
        source = self.vectors[CLASSES]
        row_of = {label: row for row, label in enumerate(source.ids)}
        rows = [row_of[label] for label in self.classes]
        return np.asarray(source.unit[rows], dtype=np.float64)

    @cached_property
    def negatives(self) -> Matrix:
        """Negatives shared by all queries."""
        if self.card.negatives_from == "outside":
            if NEGATIVES not in self.vectors:
                return np.zeros((0, self.items.shape[1]))
            return np.asarray(self.vectors[NEGATIVES].unit, dtype=np.float64) / self._columns
        wanted = min(PUBLISHED_NEGATIVES, len(self.items))
        chosen = np.random.default_rng(self.card.seed).permutation(len(self.items))[:wanted]
        return self.items[np.sort(chosen)]

    def _pictures(self, ids: list[str]) -> Matrix:
        rows = [self._row_of[image_id] for image_id in ids]
        needed = 12 * len(rows) * self.vectors[IMAGES].rows.shape[1]  # in float32, and in float64
        ensure_memory(needed, f"the vectors of {len(rows):,} pictures that are searched by examples")
        return np.asarray(self.vectors[IMAGES].unit[rows], dtype=np.float64) / self._columns

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.vectors[IMAGES].ids)}

    @cached_property
    def _columns(self) -> Float64[np.ndarray, " dim"]:
        """Divisors of the columns: 1, or their norms over all pictures that take part."""
        dim = self.vectors[IMAGES].rows.shape[1]
        if self.card.scaling == "rows":
            return np.ones(dim)
        ids = [*self.task.item_ids, *(image_id for own in self.shown for image_id in own)]
        rows = self.vectors[IMAGES].unit[[self._row_of[image_id] for image_id in ids]]
        norms = np.linalg.norm(np.asarray(rows, dtype=np.float64), axis=0)
        return np.where(norms > 0, norms, 1.0)
