"""Vectors in fewer bytes: fewer dimensions, fewer bits of each, and a better look at the best.

A form (`VectorForm`) is what `compress` measures and what a search index holds, by the same code: a `FittedForm` is
what all items share in it, and `CompressedItems` are searched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Int

from twinlens.config.vector_forms import BETTER, Precision, VectorForm
from twinlens.core.row_sources import RowBlocks, iter_blocks
from twinlens.retrieval.axes import Axes
from twinlens.retrieval.codes import ALL, Arrays, Binary, Codes, Floats, Halves, Int8Steps, Products, Rows, Some, Vector
from twinlens.retrieval.known import Known
from twinlens.retrieval.rotated_bits import RotatedBits
from twinlens.retrieval.scores import compute_exact_scores

# Of LanceDB's IVF_RQ, which has RaBitQ's codes by partition. One bit of a dimension takes ten times as many candidates
# to be scored again for the same recall; dimensions have to be a multiple, as the bits of so many are packed together.
RABITQ_BITS, RABITQ_MULTIPLE = 2, 8
BETTER_FORM = VectorForm(BETTER)
CODES: dict[Precision, type[Codes]] = {
    "float32": Floats,
    "float16": Halves,
    "int8": Int8Steps,
    "binary": Binary,
    "rotated_bits": RotatedBits,
}


@dataclass(frozen=True)
class FittedForm:
    """A form, and what all items share in it."""

    form: VectorForm
    dim: int  # of the vectors, before any is left out
    axes: Axes | None  # None: all dimensions
    shared: Arrays  # see `Codes.fit`

    @classmethod
    def of(cls, form: VectorForm, items: RowBlocks, known: Known) -> Self:
        """Fit a form, a block of items at a time.

        Args:
            form: one that `known` can tell.
            items: unit vectors.
            known: what is learned from beside them.
        """
        axes = choose_axes(form, known)
        kept = items if axes is None else _KeptRows(items, axes)
        return cls(form, items.shape[1], axes, CODES[form.precision].fit(kept, known.mean_query))

    def keep(self, rows: Rows) -> Rows:
        """Bring vectors to the dimensions that are kept."""
        return rows if self.axes is None else self.axes.keep(rows)

    def encode(self, rows: Rows) -> Arrays:
        """Encode some items: an entry of each, by the names of the codes' fields."""
        return CODES[self.form.precision].encode(self.keep(rows), self.shared)

    def prepare(self, queries: Rows) -> Rows:
        """Bring queries to what is multiplied with written-out codes; see `Codes.prepare`."""
        return self.make_codes(self.encode(np.zeros((0, self.dim), np.float32))).prepare(self.keep(queries))

    def make_codes(self, encoded: Arrays) -> Codes:
        """Take over what `encode` gave."""
        made: Any = CODES[self.form.precision]
        codes: Codes = made(**encoded, **self.shared)
        return codes


@dataclass(frozen=True)
class CompressedItems:
    """Items in a form: how they are scored, by their codes and anew."""

    fitted: FittedForm
    codes: Codes
    better: Codes | None = None  # of the same items, which give the best by the codes new scores

    @classmethod
    def of(cls, form: VectorForm, items: RowBlocks, known: Known, better: Codes | None = None) -> Self:
        """Encode items.

        Args:
            form: how.
            items: unit vectors.
            known: what is learned from beside them.
            better: the items in int8, where several forms share them.
        """
        if form.rescored is None:
            better = None
        elif better is None:
            better = cls.of(BETTER_FORM, items, known).codes
        fitted = FittedForm.of(form, items, known)
        return cls(fitted, fitted.make_codes(_join(fitted.encode(rows) for rows in iter_blocks(items))), better)

    @property
    def form(self) -> VectorForm:
        """How they are kept."""
        return self.fitted.form

    @property
    def item_bytes(self) -> float:
        """Bytes of one item, those of the vectors for new scores among them."""
        return self.codes.item_bytes + (0.0 if self.better is None else self.better.item_bytes)

    def count_candidates(self, k: int) -> int:
        """Count the items that the codes have to find for the `k` best."""
        return max(k, self.form.rescored or 0)

    def prepare(self, queries: Rows) -> Rows:
        """Bring queries to what is multiplied with the written-out codes."""
        return self.codes.prepare(self.fitted.keep(queries))

    def products(self, query: Vector) -> Products:
        """Score all items for one query by their codes, but for float32's error."""
        return self.codes.products(self.fitted.keep(query[None])[0])

    def restore(self, some: Some = ALL) -> Rows:
        """Restore vectors in all dimensions, as far as what is kept knows them: pictures that a query learns from."""
        if self.better is not None:
            return self.better.restore(some)
        rows, axes = self.codes.restore(some), self.fitted.axes
        return rows if axes is None else axes.restore(rows, self.fitted.dim)


def choose_axes(form: VectorForm, known: Known) -> Axes | None:
    """Choose the dimensions that a form keeps; None: all."""
    if form.dimensions is None:
        return None
    return Axes.first(form.dimensions) if form.axes == "first" else Axes.principal(known.principal, form.dimensions)


def encode(items: RowBlocks, precision: Precision, mean_query: Vector | None = None) -> Codes:
    """Bring all dimensions of items to a precision.

    Args:
        items: unit vectors.
        precision: a key of `CODES`.
        mean_query: of queries like those that will be asked; see `RotatedBits`.
    """
    return CompressedItems.of(VectorForm(precision), items, Known(items, False, mean_query)).codes


def score_exactly(
    queries: Rows, codes: Codes, rows: Int[np.ndarray, "queries k"], fitted: FittedForm | None = None
) -> Rows:
    """Score some items of each query by what their codes come to: without error, rounded as all scores are.

    Args:
        queries: in all dimensions.
        codes: of the items.
        rows: of the items.
        fitted: says which dimensions are kept; all if absent.
    """
    found = np.empty(rows.shape, dtype=np.float32)
    prepared = codes.prepare(queries if fitted is None else fitted.keep(queries))
    for number, (query, some) in enumerate(zip(prepared, rows, strict=True)):
        found[number] = compute_exact_scores(query[None], codes.decode(some), np.arange(len(some))[None])[0]
    return found


@dataclass(frozen=True)
class _KeptRows:
    """Items with fewer dimensions, a block at a time."""

    items: RowBlocks
    axes: Axes

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.items), self.axes.kept

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, some: slice, /) -> np.ndarray:
        return self.axes.keep(np.asarray(self.items[some], dtype=np.float32))


def _join(blocks: Iterable[Arrays]) -> Arrays:
    found = list(blocks)
    if len(found) == 1:
        return found[0]
    return {name: np.concatenate([block[name] for block in found]) for name in found[0]}
