"""Build query vectors from text, image and relevance feedback."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from twinlens.config.params import Params
from twinlens.core.errors import QueryError
from twinlens.indexing.index import Index, WeightedVector
from twinlens.indexing.store import CAPTION_VECTOR, IMAGE_VECTOR
from twinlens.retrieval import exemplar

POOL_SHARE = 5  # at most one picture of so many stands in as a negative: what is wanted may be among them

Vector = Float32[np.ndarray, " dim"]


@dataclass(frozen=True)
class EmbeddedQuery:
    """A query whose text and picture have vectors; `likes` and `unlikes` are item rows."""

    text: Vector | None
    picture: Vector | None
    likes: list[int]
    unlikes: list[int]
    image_weight: float  # of picture beside words


def choose_picture_space(index: Index) -> str:
    """Choose where pictures, liked ones and learned weights search: pixels, or captions where a model has no pixels."""
    return IMAGE_VECTOR if IMAGE_VECTOR in index.spaces else CAPTION_VECTOR


def choose_text_space(joint: bool) -> str:
    """Choose where words search: among pictures, if the model puts both into one space, else among captions."""
    return IMAGE_VECTOR if joint else CAPTION_VECTOR


def sum_feedback(query: EmbeddedQuery, index: Index, params: Params, joint: bool) -> list[WeightedVector]:
    """Sum unit vectors; with liked or disliked items by Rocchio, with the weights of `category_search.standard`.

    In one space text and picture are added up before they search; in two each searches its own, and scores
    are added up with the same weights.

    Raises:
        QueryError: a liked or disliked picture has no vector in the space that is searched.
    """
    home, other = choose_picture_space(index), choose_text_space(joint)
    together = home == other
    start = query.picture
    if together and query.text is not None:
        start = query.text if start is None else _between(start, query.text, query.image_weight)
    if start is None and not query.likes:  # two spaces, and nothing but words to start from
        assert query.text is not None
        return [WeightedVector(other, _rocchio(query.text, other, query, index, params))]
    mine = _rocchio(start, home, query, index, params)
    return _with_words(mine, home, query, joint, together)


def fit_exemplars(
    query: EmbeddedQuery, index: Index, params: Params, joint: bool
) -> tuple[list[WeightedVector], list[str]]:
    """Fit an exemplar SVM: liked items and the picture against disliked ones and negatives.

    Negatives are pictures that are never found, where the index has such (those of category search). Elsewhere a
    few of the pool's own stand in, which a note says: those among them that are wanted are pushed away.

    Where words share the space they pull at the weights that are learned (the combined loss); elsewhere they
    search among the captions beside it.

    Raises:
        DataError: liked and disliked items are the same, or nothing is left to tell them apart from.
        QueryError: a liked or disliked picture has no vector in the space that is searched.
    """
    home, card = choose_picture_space(index), params.category_search.standard
    together = home == choose_text_space(joint)
    shown = [] if query.picture is None else [query.picture[None]]
    positives = np.vstack([*shown, _vectors(index, home, query.likes, 0)]) if query.likes else np.vstack(shown)
    negatives, notes = _negatives(query, index, params, home)
    examples = exemplar.Examples.of([positives], [_vectors(index, home, query.unlikes, positives.shape[1])])
    pulled = together and query.text is not None
    fitted = exemplar.fit_svms(
        examples,
        negatives,
        lambda_w=card.lambda_w if pulled else 1.0 / (2.0 * card.svm_c),
        intercept="free" if pulled else "regularised",  # as `rank` fits them
        texts=query.text[None] if pulled and query.text is not None else None,
        lambda_q=card.lambda_q if pulled else 0.0,
        strict=False,
    )
    notes += ["the words overrule the examples: mark more pictures, or change the words"] * int(fitted.overruled[0])
    learned = exemplar.scale_to_unit(fitted.weights)[0].astype(np.float32)
    return _with_words(learned, home, query, joint, together), notes


def _negatives(
    query: EmbeddedQuery, index: Index, params: Params, home: str
) -> tuple[Float32[np.ndarray, "negatives dim"], list[str]]:
    draw, wanted = np.random.default_rng(params.search.seed), params.search.negatives
    apart = index.copy.negatives if home == IMAGE_VECTOR else None
    if apart is not None:
        return apart[np.sort(draw.permutation(len(apart))[:wanted])], []
    unusable = [*query.likes, *query.unlikes, *index.space(home).absent]
    others = np.setdiff1d(np.arange(index.manifest.rows), unusable)
    count = min(wanted, max(1, index.manifest.rows // POOL_SHARE))
    drawn = np.sort(draw.permutation(others)[:count])
    note = f"the index has no negatives of its own: {len(drawn):,} of its pictures, drawn at random, stand in for them"
    return index.vectors(home, drawn), [note]


def _with_words(mine: Vector, home: str, query: EmbeddedQuery, joint: bool, together: bool) -> list[WeightedVector]:
    if together or query.text is None:
        return [WeightedVector(home, mine)]
    return [
        WeightedVector(home, mine, query.image_weight),
        WeightedVector(choose_text_space(joint), query.text, 1.0 - query.image_weight),
    ]


def _between(picture: Vector, text: Vector, image_weight: float) -> Vector:
    return exemplar.combine_unit_vectors(picture[None], text[None], image_weight)[0].astype(np.float32)


def _rocchio(start: Vector | None, space: str, query: EmbeddedQuery, index: Index, params: Params) -> Vector:
    if start is not None and not query.likes and not query.unlikes:
        return start
    dim = index.vectors(space, [0]).shape[1]
    liked, disliked = _vectors(index, space, query.likes, dim), _vectors(index, space, query.unlikes, dim)
    begun = liked.mean(axis=0) if start is None else start
    good = liked if len(liked) else begun[None]
    none = np.zeros((0, dim))
    weights = params.category_search.standard.rocchio
    return exemplar.rocchio(exemplar.Examples.of([good], [disliked]), none, begun[None], *weights)[0].astype(np.float32)


def _vectors(index: Index, space: str, rows: list[int], dim: int) -> Float32[np.ndarray, "rows dim"]:
    """Stored vectors of marked pictures; (0, dim) where there are none."""
    if without := np.intersect1d(rows, index.space(space).absent).tolist():
        raise QueryError(
            f"{index.pictures(without[:1])[0].image_id!r} has no vector to learn from ({space}): nobody described it, "
            f"and {index.manifest.model} searches by captions; leave it out of the marked pictures"
        )
    return index.vectors(space, rows) if rows else np.zeros((0, dim), dtype=np.float32)
