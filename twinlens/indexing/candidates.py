"""Approximate candidates: a table of LanceDB with the vectors alone, where params.yaml asks for a vector index.

Whatever the index finds is scored again by the vectors of the row store, so that the table needs no exact ones: it
holds half-precision vectors (LanceDB takes no int8), and float32 only beside a row store of float32. Those of `ivf_rq`
LanceDB reads while it builds the index and never after.
Importing LanceDB and opening a table takes seconds of a processor, more than an exact search of 100,000 vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int

from twinlens.config.params import SearchParams
from twinlens.core.errors import DataError, ParamsError, require_extra
from twinlens.core.row_sources import BLOCK
from twinlens.indexing.store import RowStore, Space
from twinlens.retrieval.compression import RABITQ_BITS, RABITQ_MULTIPLE

if TYPE_CHECKING:
    from lancedb.table import Table

TABLE, ROW = "vectors", "row"
# Times the wanted candidates that an index is asked for, to be scored again by the stored vectors.
REFINE = {"ivf": 2, "hnsw": 4, "ivf_rq": 10}
# Pictures a partition of `ivf_rq`: four times LanceDB's own choice, as two bits a dimension are read in a fraction of
# the time of a number, and to find the partition of every vector is most of the work of building.
PER_PARTITION = 32_768
SAMPLED = 64  # vectors a partition of `ivf_rq` that its centre is fitted to


def check_candidates(kind: str, dims: Mapping[str, int]) -> None:
    """Check that an index can be built before an hour's work rather than after.

    Args:
        kind: `ivf`, `hnsw` or `ivf_rq`.
        dims: of the vectors, by column.

    Raises:
        ExtraError: LanceDB is not installed.
        ParamsError: it takes no such vectors.
    """
    _refuse_without_lancedb()
    odd = [f"{name} has {dim}" for name, dim in dims.items() if kind == "ivf_rq" and dim % RABITQ_MULTIPLE]
    if odd:
        raise ParamsError(
            f"index.vector_index: ivf_rq takes vectors of a multiple of {RABITQ_MULTIPLE} dimensions, and {odd[0]}: "
            "take ivf or hnsw"
        )


def _refuse_without_lancedb() -> None:
    with require_extra("ann", "an approximate index (index.vector_index)"):
        import lancedb  # noqa: F401


def write_candidates(folder: Path, kind: str) -> None:
    """Write the table beside the vectors in `folder`, with an index for each space; a block is in memory at a time.

    Args:
        folder: of a row store with its vectors.
        kind: `ivf`, `hnsw` or `ivf_rq`.
    """
    import lancedb

    copy = RowStore(folder)
    spaces = {name: copy.space(name) for name in copy.spaces}
    whole = kind != "ivf_rq" and all(space.form.precision == "float32" for space in spaces.values())
    number = pa.float32() if whole else pa.float16()
    columns = [(name, pa.list_(number, space.rows.shape[1])) for name, space in spaces.items()]
    schema = pa.schema([(ROW, pa.int32()), *columns])
    blocks = pa.RecordBatchReader.from_batches(schema, _blocks(spaces, len(copy), schema))
    # To LanceDB a null vector is a bad one; here it is a picture that nobody described.
    table = lancedb.connect(folder).create_table(TABLE, data=blocks, on_bad_vectors="null")
    for name in spaces:
        table.create_index(name, config=_config(kind, len(copy)))


def _config(kind: str, rows: int) -> Any:
    from lancedb.index import HnswSq, IvfFlat, IvfRq

    if kind == "ivf_rq":
        partitions = max(1, round(rows / PER_PARTITION))
        return IvfRq("dot", num_partitions=partitions, num_bits=RABITQ_BITS, sample_rate=SAMPLED)
    return IvfFlat("dot") if kind == "ivf" else HnswSq("dot")


def open_candidates(folder: Path) -> Table:
    """Open the table in a folder.

    Raises:
        DataError: it is not there.
        ExtraError: LanceDB is not installed.
    """
    _refuse_without_lancedb()
    import lancedb

    try:
        return lancedb.connect(folder).open_table(TABLE)
    except ValueError:
        raise DataError(f"{folder} has no table for approximate search: `dvc repro -f index` builds it anew") from None


def find_candidates(
    table: Table, space: str, vector: Float32[np.ndarray, " dim"], count: int, params: SearchParams, kind: str
) -> Int[np.ndarray, " candidates"]:
    """Find rows that are probably the nearest: `REFINE` times as many as wanted, in no order that means anything.

    Args:
        table: of `open_candidates`.
        space: a column of vectors.
        vector: of the query.
        count: items wanted.
        params: effort.
        kind: of the index.
    """
    asked = count * REFINE[kind]
    found = (
        table.search(vector, vector_column_name=space)
        .distance_type("dot")
        .nprobes(params.probes)
        .ef(max(params.ef, asked))
        .limit(asked)
        .select([ROW, "_distance"])
        .to_arrow()
    )
    return found[ROW].to_numpy().astype(np.int64)


def _blocks(spaces: dict[str, Space], rows: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for start in range(0, rows, BLOCK):
        some = slice(start, min(start + BLOCK, rows))
        numbers = pa.array(np.arange(some.start, some.stop, dtype=np.int32))
        vectors = [_vectors(space, some, schema.field(name).type) for name, space in spaces.items()]
        yield pa.RecordBatch.from_arrays([numbers, *vectors], schema=schema)


def _vectors(space: Space, some: slice, kept: pa.FixedSizeListType) -> pa.Array:
    rows = space.items.codes.decode(some).astype(kept.value_type.to_pandas_dtype(), copy=False)
    absent = np.zeros(len(rows), dtype=bool)
    absent[space.absent[(space.absent >= some.start) & (space.absent < some.stop)] - some.start] = True
    mask = pa.array(absent) if absent.any() else None
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), type=kept, mask=mask)
