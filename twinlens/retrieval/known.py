"""Known: what forms of vectors learn from beside the items, and the choice of it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64

from twinlens.config.vector_forms import VectorForm
from twinlens.core.errors import DataError, ParamsError
from twinlens.core.row_sources import RowBlocks
from twinlens.core.vectors import Vectors
from twinlens.retrieval.axes import fit_principal
from twinlens.retrieval.rotated_bits import fit_mean
from twinlens.tasks.inputs import NEGATIVES, VALIDATION_CAPTIONS, VALIDATION_IMAGES

log = logging.getLogger("twinlens")

LEARNED_FROM = (VALIDATION_IMAGES, NEGATIVES, VALIDATION_CAPTIONS)  # inputs


@dataclass(frozen=True)
class Known:
    """What forms learn from, beside the items."""

    fitted_on: RowBlocks  # pictures whose principal axes are taken
    other_pictures: bool  # whether these are others than the items
    mean_query: Float32[np.ndarray, " dim"] | None = None  # of queries that are not measured; None: there are none
    matryoshka: Sequence[int] = ()  # so many first dimensions stand alone, by the model's card

    @cached_property
    def principal(self) -> Float64[np.ndarray, "dim dim"]:
        """Principal axes, the one that says most first."""
        return fit_principal(self.fitted_on)

    def can_fit(self, form: VectorForm) -> bool:
        """Whether there are as many pictures as a form keeps principal axes."""
        return form.axes != "principal" or len(self.fitted_on) >= (form.dimensions or 0)


def learn(
    vectors: Mapping[str, Vectors],
    items: RowBlocks,
    pool: Collection[str],
    *,
    pictures: bool,
    captions_ask: bool,
    matryoshka: Sequence[int] = (),
) -> Known:
    """Choose what forms learn from.

    Principal axes are those of pictures outside the pool (validation's, the negatives of category search) where there
    are twice as many as dimensions; else of the items themselves, of which nothing but the vectors is looked at.

    Args:
        vectors: of the model, by the names of inputs: those of `LEARNED_FROM` are looked at.
        items: unit vectors.
        pool: image ids of the items.
        pictures: whether the items are pictures as the image tower sees them.
        captions_ask: whether queries are captions in the items' space; else they are like the items.
        matryoshka: of the model's card.
    """
    others = _take_others(vectors, items.shape[1], pool) if pictures else np.zeros((0, items.shape[1]), np.float32)
    enough = len(others) >= 2 * items.shape[1]
    mean: Float32[np.ndarray, " dim"] | None = None
    if not captions_ask:
        mean = fit_mean(items)
    elif VALIDATION_CAPTIONS in vectors:
        mean = fit_mean(vectors[VALIDATION_CAPTIONS].unit)
    return Known(others if enough else items, enough, mean, matryoshka)


def check_form(form: VectorForm, dim: int, known: Known, model: str) -> None:
    """Check that vectors can be kept in a form before an hour's work rather than after.

    Args:
        form: of the settings.
        dim: of the vectors.
        known: what the form learns from.
        model: whose vectors they are.

    Raises:
        ParamsError: the vectors have too few dimensions, or the model's card does not let the first ones stand alone.
        DataError: there are too few pictures to fit principal axes to.
    """
    count, asked = form.dimensions, f"index.vectors: '{form.name}'"
    if count is None:
        return
    if count >= dim:
        raise ParamsError(
            f"{asked} leaves nothing out: vectors of {model} have {dim} dimensions; keep fewer, or take "
            f"'{form.precision}'"
        )
    if form.axes == "first" and count not in known.matryoshka:
        allowed = ", ".join(str(one) for one in sorted(known.matryoshka)) or "none"
        raise ParamsError(
            f"{asked}: by its card the first {count} dimensions of {model} do not stand alone (`matryoshka`: "
            f"{allowed}); take '{count} principal dimensions, {form.precision}'"
        )
    if not known.can_fit(form):
        raise DataError(
            f"{asked} wants at least {count} pictures to fit its axes to, and there are {len(known.fitted_on)}: keep "
            f"fewer dimensions, or take '{form.precision}'"
        )
    if form.axes == "principal" and not known.other_pictures:
        log.warning(
            "%s: principal axes are fitted to the pool itself, as `compress` measures them: pictures outside it "
            "(validation's, category_search.negatives) are fewer than twice %d",
            model,
            dim,
        )


def _take_others(
    vectors: Mapping[str, Vectors], dim: int, pool: Collection[str]
) -> Float32[np.ndarray, "pictures dim"]:
    seen, found = set(pool), [np.zeros((0, dim), np.float32)]
    for name in (VALIDATION_IMAGES, NEGATIVES):
        if name in vectors:
            rows = [row for row, image_id in enumerate(vectors[name].image_ids) if image_id not in seen]
            seen |= set(vectors[name].image_ids)
            found.append(np.asarray(vectors[name].unit[rows]))
    return np.vstack(found)
