"""Category search as a task: classes are searched for by name, by exemplar pictures, or by both.

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

All of them search with the same queries, each a class with exemplars of its own, so that any two can
be compared query by query; `text` has the same vector for all queries of a class.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64

from twinlens import exemplar
from twinlens.categories import ID_SEPARATOR, Roles, assign_roles, check_apart, classes_of
from twinlens.config.params import CategoryCard, CategoryParams
from twinlens.sources import CLASSES, IMAGES, NEGATIVES
from twinlens.tables import AS_PUBLISHED
from twinlens.tasks import Task, Vectors

log = logging.getLogger("twinlens")

NAME = "category_search"
TOLERANCE = 1e-4
PUBLISHED_NEGATIVES = 1000  # out of its 46,830 ranked pictures; all of them where there are fewer
PUBLISHED = ("text", "exemplar", "exemplar_svm", "exemplar_svm_and_text")  # what the article has

Matrix = Float64[np.ndarray, "rows dim"]
Pair = tuple[Float32[np.ndarray, "queries dim"], Float32[np.ndarray, "items dim"]]


def build(sources: dict[str, Vectors], pool: pl.DataFrame, images: pl.DataFrame, params: CategoryParams) -> list[Task]:
    """The task under our protocol and, where wanted, under the published one.

    Args:
        sources: by name; IMAGES, where they are there CLASSES (a joint model's) and NEGATIVES.
        pool: the pool's part of table GROUPS, in the order of `sources[IMAGES]`.
        images: table IMAGES.
        params: of category search.

    Raises:
        DataError: a negative is also ranked or an exemplar.
    """
    if IMAGES not in sources:
        return []
    classed = classes_of(pool, images)
    tasks = []
    for name, card in ((NAME, params.standard), (NAME + AS_PUBLISHED, params.as_published)):
        if card is None:
            continue
        roles = assign_roles(classed, card.queries_per_class, card.exemplars_per_query, card.seed)
        if not roles.classes:
            log.info(
                "%s is left out: it needs 2 classes with more than %d pictures that show nothing else; "
                "%d of the pool's pictures have one class, in %d classes",
                name,
                card.queries_per_class * card.exemplars_per_query,
                len(classed),
                classed["class"].n_unique(),
            )
            continue
        tasks.append(_task(name, _Side(sources, roles, card)))
    return tasks


def _task(name: str, side: _Side) -> Task:
    roles = side.roles
    names = sorted({*roles.item_classes, *roles.classes})
    code_of = {label: code for code, label in enumerate(names)}
    task = Task(
        name,
        query_ids=[
            ID_SEPARATOR.join([c, *own]) for c, own in zip(roles.query_classes, roles.query_exemplars, strict=True)
        ],
        query_images=[own[0] for own in roles.query_exemplars],
        query_groups=np.array([code_of[label] for label in roles.query_classes]),
        item_ids=roles.item_ids,
        item_groups=np.array([code_of[label] for label in roles.item_classes]),
        group_names=names,
        own_rows=None,
        full_ranking=True,
        about={"classes": len(roles.classes), "negatives": len(side.negatives)},
    )
    wanted = set(PUBLISHED) if name.endswith(AS_PUBLISHED) else None
    for retriever, make in side.ways().items():
        if wanted is None or retriever in wanted:
            task.retrievers[retriever] = side.searching(make)
    return task


@dataclass(frozen=True)
class _Side:
    """The vectors of one protocol, in its own scaling, and the ways to make a query of them."""

    sources: dict[str, Vectors]
    roles: Roles
    card: CategoryCard

    def ways(self) -> dict[str, Callable[[], Matrix]]:
        """How each retriever makes its queries: those that there are vectors for."""
        card, text, apart = self.card, CLASSES in self.sources, len(self.negatives) > 1
        lambda_svm = 1.0 / (2.0 * card.svm_c)
        centres = self.examples.centres()[0]
        ways: dict[str, tuple[bool, Callable[[], Matrix]]] = {
            "text": (text, lambda: self.texts),
            "exemplar": (True, lambda: centres),
            "exemplar_and_text": (
                text,
                lambda: exemplar.weighted_sum(centres, self.texts, card.image_weight),
            ),
            "rocchio": (
                apart,
                lambda: exemplar.rocchio(self.examples, self.negatives, self.texts if text else centres, *card.rocchio),
            ),
            "exemplar_ridge": (apart, lambda: exemplar.ridge(self.examples, self.negatives, lambda_svm)),
            "exemplar_lda": (apart, lambda: exemplar.lda_whitened(self.examples, self.negatives, card.shrinkage)),
            "exemplar_svm": (apart, lambda: self._fitted(lambda_svm, 0.0)),
            "exemplar_svm_and_text": (text and apart, lambda: self._fitted(card.lambda_w, card.lambda_q)),
        }
        return {name: make for name, (possible, make) in ways.items() if possible}

    def searching(self, make: Callable[[], Matrix]) -> Callable[[], Pair]:
        """Unit queries, and items no longer than 1: the order stays, and scores are as exact as cosines."""

        def pair() -> Pair:
            longest = np.linalg.norm(self.items, axis=1).max()
            return exemplar.unit(make()).astype(np.float32), (self.items / longest).astype(np.float32)

        return pair

    def _fitted(self, lambda_w: float, lambda_q: float) -> Matrix:
        texts = self.texts if lambda_q else None
        # A query or two that crawl must not cost the run: they search from where they came to, and are counted.
        fitted = exemplar.fit(
            self.examples,
            self.negatives,
            lambda_w=lambda_w,
            texts=texts,
            lambda_q=lambda_q,
            tolerance=TOLERANCE,
            strict=False,
        )
        if late := int((~(fitted.residuals <= TOLERANCE)).sum()):
            log.warning("%d of %d queries did not come within %g: raise lambda_w", late, len(fitted.weights), TOLERANCE)
        if fitted.overruled.any():
            log.warning("the text overrules the exemplars of %d queries: lower lambda_q", fitted.overruled.sum())
        return fitted.weights

    @cached_property
    def examples(self) -> exemplar.Examples:
        """Of every query."""
        return exemplar.Examples.of([self._pictures(own) for own in self.roles.query_exemplars])

    @cached_property
    def items(self) -> Matrix:
        """What is ranked."""
        return self._pictures(self.roles.item_ids)

    @cached_property
    def texts(self) -> Matrix:
        """The prompt of every query's class; never scaled by columns, as the article's were not."""
        source = self.sources[CLASSES]
        row_of = {label: row for row, label in enumerate(source.ids)}
        rows = [row_of[label] for label in self.roles.query_classes]
        return np.asarray(source.rows[rows], dtype=np.float64)

    @cached_property
    def negatives(self) -> Matrix:
        """What all queries are told apart from."""
        if self.card.negatives_from == "outside":
            check_apart(self.sources[NEGATIVES].ids if NEGATIVES in self.sources else [], self.roles)
            if NEGATIVES not in self.sources:
                return np.zeros((0, self.items.shape[1]))
            return np.asarray(self.sources[NEGATIVES].rows, dtype=np.float64) / self._columns
        wanted = min(PUBLISHED_NEGATIVES, len(self.items))
        chosen = np.random.default_rng(self.card.seed).permutation(len(self.items))[:wanted]
        return self.items[np.sort(chosen)]

    def _pictures(self, ids: list[str]) -> Matrix:
        rows = [self._row_of[image_id] for image_id in ids]
        return np.asarray(self.sources[IMAGES].rows[rows], dtype=np.float64) / self._columns

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.sources[IMAGES].ids)}

    @cached_property
    def _columns(self) -> Float64[np.ndarray, " dim"]:
        """What the columns are divided by: 1, or their norms over all pictures that take part."""
        dim = self.sources[IMAGES].rows.shape[1]
        if self.card.scaling == "rows":
            return np.ones(dim)
        ids = [*self.roles.item_ids, *(image_id for own in self.roles.query_exemplars for image_id in own)]
        rows = self.sources[IMAGES].rows[[self._row_of[image_id] for image_id in ids]]
        norms = np.linalg.norm(np.asarray(rows, dtype=np.float64), axis=0)
        return np.where(norms > 0, norms, 1.0)
