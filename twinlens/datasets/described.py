"""Pictures with their captions, some of many: what a check of a dataset looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from twinlens.core.id_rows import IdRows
from twinlens.core.stored_tables import StoredTable, Table, iter_slices


def list_columns(table: Table) -> list[str]:
    """List the columns of a table, wherever it is."""
    return table.schema.names if isinstance(table, StoredTable) else table.columns


def choose_described(
    images: Table, captions: Table, columns: Sequence[str], wanted: pl.Expr, most: int
) -> pl.DataFrame:
    """Choose wanted pictures that have captions, at even distances where there are more than so many.

    Args:
        images: `image_id` and the columns, in the dataset's order.
        captions: `image_id`, `text`.
        columns: to bring along.
        wanted: what is true of a picture that is wanted.
        most: pictures.

    Returns:
        `image_id`, the columns and the picture's captions as a list, `text`.
    """

    def select() -> Iterator[pl.DataFrame]:
        for part in iter_slices(images, ("image_id", *columns)):
            yield part.filter(wanted)

    rows = IdRows.of(part["image_id"] for part in select())
    described = np.zeros(len(rows), dtype=bool)
    for part in iter_slices(captions, ("image_id",)):
        found = rows.find(part["image_id"])
        described[found[found >= 0]] = True
    candidates = np.flatnonzero(described)
    if len(candidates) > most:
        candidates = candidates[np.linspace(0, len(candidates) - 1, most).astype(np.int64)]
    parts: list[pl.DataFrame] = []
    start = 0
    for part in select():
        mine = candidates[slice(*np.searchsorted(candidates, [start, start + len(part)]))] - start
        parts.append(part[mine])
        start += len(part)
    if not parts:
        return pl.DataFrame(schema=dict.fromkeys(("image_id", *columns), pl.String) | {"text": pl.List(pl.String)})
    chosen = pl.concat(parts)
    place = IdRows.of([chosen["image_id"]])
    texts: list[list[str]] = [[] for _ in range(len(chosen))]
    for part in iter_slices(captions, ("image_id", "text")):
        found = place.find(part["image_id"])
        mine = np.flatnonzero(found >= 0)
        for row, text in zip(found[mine].tolist(), part["text"].gather(mine).to_list(), strict=True):
            texts[row].append(text)
    return chosen.with_columns(text=pl.Series(texts, dtype=pl.List(pl.String)))
