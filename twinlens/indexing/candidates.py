"""Approximate candidates: a table of LanceDB with the vectors alone, where params.yaml asks for a vector index.

Importing LanceDB and opening a table takes seconds of a processor, more than an exact search of 100,000 vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int

from twinlens.config.params import SearchParams
from twinlens.core.errors import DataError, require_extra
from twinlens.indexing.store import RowStore, Space

if TYPE_CHECKING:
    from lancedb.table import Table

TABLE, ROW = "vectors", "row"
REFINE = 4  # an approximate search looks at this many times the wanted candidates with their full vectors


def refuse_without_lancedb() -> None:
    """Check for the library before an hour's work rather than after.

    Raises:
        ExtraError: it is not installed.
    """
    with require_extra("ann", "an approximate index (index.vector_index)"):
        import lancedb  # noqa: F401


def write_candidates(folder: Path, kind: str) -> None:
    """Write the table beside the vectors in `folder`, with an index of a kind, `ivf` or `hnsw`, for each space."""
    import lancedb
    from lancedb.index import HnswSq, IvfFlat

    copy = RowStore(folder)
    columns = {ROW: pa.array(np.arange(len(copy), dtype=np.int32))}
    columns |= {name: _vectors(copy.space(name)) for name in copy.spaces}
    # To LanceDB a null vector is a bad one; here it is a picture that nobody described.
    table = lancedb.connect(folder).create_table(TABLE, data=pa.table(columns), on_bad_vectors="null")
    for name in copy.spaces:
        table.create_index(name, config=IvfFlat("dot") if kind == "ivf" else HnswSq("dot"))


def open_candidates(folder: Path) -> Table:
    """Open the table in a folder.

    Raises:
        DataError: it is not there.
        ExtraError: LanceDB is not installed.
    """
    refuse_without_lancedb()
    import lancedb

    try:
        return lancedb.connect(folder).open_table(TABLE)
    except ValueError:
        raise DataError(f"{folder} has no table for approximate search: `dvc repro -f index` builds it anew") from None


def find_candidates(
    table: Table, space: str, vector: Float32[np.ndarray, " dim"], count: int, params: SearchParams
) -> Int[np.ndarray, " candidates"]:
    """Find about `count` rows that are probably the nearest."""
    found = (
        table.search(vector, vector_column_name=space)
        .distance_type("dot")
        .nprobes(params.probes)
        .ef(max(params.ef, count))
        .refine_factor(REFINE)
        .limit(count)
        .select([ROW, "_distance"])
        .to_arrow()
    )
    return found[ROW].to_numpy().astype(np.int64)


def _vectors(space: Space) -> pa.Array:
    absent = np.zeros(len(space.rows), dtype=bool)
    absent[space.absent] = True
    return pa.FixedSizeListArray.from_arrays(
        pa.array(space.take(slice(None)).ravel()), space.rows.shape[1], mask=pa.array(absent) if absent.any() else None
    )
