"""Tables that pass from stage to stage: their columns, and how they are written and read.

Writing checks the columns, so a stage that reads a table may rely on its schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from twinlens.core import paths
from twinlens.core.absence import advise
from twinlens.core.errors import DataError, remake
from twinlens.core.resources import name_disk_fault


def _columns(**types: pa.DataType) -> pa.Schema:
    """A schema whose columns may not be null, but for those whose name ends in `_or_null`."""
    return pa.schema(
        [
            pa.field(name.removesuffix("_or_null"), kind, nullable=name.endswith("_or_null"))
            for name, kind in types.items()
        ]
    )


ROWS_PER_GROUP = 128 * 1024  # of a file: what whoever reads or writes it piece by piece has in memory
_text = pa.string()

IMAGES = _columns(
    image_id=_text,
    file=_text,  # the name by which the dataset's adapter finds the picture
    split=_text,  # train, val or test
    labels=pa.list_(_text),  # names of the objects shown, without repeats, sorted
)
CAPTIONS = _columns(caption_id=_text, image_id=_text, text=_text)  # caption_id: "<image_id>#<n>", n from 0
COMPOSED_QUERIES = _columns(  # queries of a picture and a text, one row for each item that is right
    query_id=_text, image_id=_text, text=_text, target_id=_text, gain=pa.float32()
)
DROPPED = _columns(kind=_text, id=_text, rule=_text, reason=_text)  # kind: image or caption
CLASSIFIED = _columns(image_id=_text, share=pa.float64())  # summed probability of the wanted classes; NaN: not opened
PIXELS = _columns(image_id=_text, jpeg=pa.binary())
INDEX = _columns(image_id=_text, shard=pa.int32(), row=pa.int32(), width=pa.int32(), height=pa.int32(), sha256=_text)
HASHES = _columns(image_id=_text, perceptual_hash=pa.binary())  # beside INDEX, in its order
NOTES = _columns(image_id=_text, kept=pa.bool_(), note=_text)  # mended (kept) or set aside (not)
OUTCOMES = _columns(  # of the pictures listed for a shard, in their order; those without a row are set aside
    image_id=_text,
    shard=pa.int32(),
    row_or_null=pa.int32(),
    width_or_null=pa.int32(),
    height_or_null=pa.int32(),
    sha256_or_null=_text,
    perceptual_hash_or_null=pa.binary(),
    notes=pa.list_(_text),
)
GROUPS = _columns(
    image_id=_text,
    split=_text,
    in_pool=pa.bool_(),
    object_set_or_null=_text,  # null: no label, or too few pictures of the pool share the set
    shard=pa.int32(),
    row=pa.int32(),
    sha256=_text,
)
DUPLICATES = _columns(
    image_id=_text,
    other_id=_text,  # the one that stands earlier in the dataset
    kind=_text,  # exact: the same bytes after resizing; near: perceptual hashes that differ in few bits
    bits=pa.int32(),
    split=_text,
    other_split=_text,
    leak=pa.bool_(),  # one is trained on (train), the other evaluated on (val, test)
    dropped_or_null=_text,  # the id of the two that was dropped for it
)
GENERATED = _columns(image_id=_text, text=_text)
ANSWERS = _columns(  # of a service that describes pictures, in the order of the captions
    image_id=_text,
    model=_text,  # by the service's own word
    input_tokens_or_null=pa.int64(),
    output_tokens_or_null=pa.int64(),
    cut=pa.bool_(),  # at the limit of tokens
    side_px_or_null=pa.int32(),  # the longer side, where a picture was made smaller to be taken
)
VECTORS = _columns(id=_text, image_id=_text)  # beside the rows of a `.npy` file, in their order
INPUTS = _columns(  # what is embedded: a text, a picture (with its place in the shards), or both
    id=_text,
    image_id=_text,
    text_or_null=_text,
    shard_or_null=pa.int32(),
    row_or_null=pa.int32(),
    sha256_or_null=_text,
)
QUERIES = _columns(
    query_id=_text,
    image_id=_text,  # the picture that it is, describes or begins with
    text_or_null=_text,  # what it says in words, where these are no caption
    group_or_null=_text,  # items of the same group are relevant; null: QRELS lists the relevant pairs
    relevant=pa.int32(),  # items that are
    exclude_or_null=_text,  # an item that it must not find, itself for instance
    partner_or_null=_text,  # the item that it is ranked with in a small batch
    shown_or_null=pa.list_(_text),  # pictures that it shows, where they are several
)
ITEMS = _columns(
    item_id=_text,
    image_id=_text,  # the picture that it is, or that it describes
    group_or_null=_text,
)
QRELS = _columns(query_id=_text, item_id=_text, gain=pa.float32())  # gains above 0
_id = pa.dictionary(pa.int32(), pa.string())
RUN = _columns(query_id=_id, item_id=_id, rank=pa.int32(), score=pa.float32())  # rank from 1, best first
FULL_RANKING = "average_precision"  # folder of the tables below, in tasks that are measured beyond the runs' depth
IN_BATCHES = "in_batches"  # folder of ranks within small batches, as source 001 measured
AS_PUBLISHED = "_as_published"  # ends the name of a task that repeats a source's own protocol, for people to see
AVERAGE_PRECISION = _columns(query_id=_text, value=pa.float64())  # over the full ranking
BATCH_RANKS = _columns(query_id=_text, rank=pa.int32())
FIRST_HITS = _columns(  # ranks of the first relevant item: in the whole pool, and in the pool without distractors
    query_id=_text, rank=pa.int32(), rank_among_judged=pa.int32()
)


def write_table(table: pa.Table | pl.DataFrame, path: Path, schema: pa.Schema) -> None:
    """Write a table as Parquet under its schema.

    Raises:
        DataError: columns are missing, of another type, or null where they may not be.
        ResourceError: the disk is full or may not be written.
    """
    with name_disk_fault(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(conform(table, schema, path.name), path, row_group_size=ROWS_PER_GROUP, compression="zstd")


class TableWriter:
    """Writer of a table in pieces, of which no more than a row group is in memory; the file is that of `write_table`.

    >>> with TableWriter(path, schema) as table:            # doctest: +SKIP
    ...     table.add(piece)
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.rows = 0  # added so far
        self._pieces: list[pa.Table] = []
        self._waiting = 0  # rows of these
        self._written = False

    def add(self, piece: pa.Table | pl.DataFrame) -> None:
        """Add the next rows; raises as `write_table` does."""
        made = conform(piece, self.schema, self.path.name)
        self._pieces.append(made)
        self.rows += len(made)
        self._waiting += len(made)
        while self._waiting >= ROWS_PER_GROUP:
            self._flush(ROWS_PER_GROUP)

    def _flush(self, rows: int) -> None:
        whole = pa.concat_tables(self._pieces) if self._pieces else self.schema.empty_table()
        group, rest = whole.slice(0, rows), whole.slice(rows)
        with name_disk_fault(self.path):
            self._writer.write_table(group.combine_chunks(), row_group_size=ROWS_PER_GROUP)
        self._pieces, self._waiting, self._written = [rest], len(rest), True

    def __enter__(self) -> Self:
        with name_disk_fault(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self.path, self.schema, compression="zstd")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and (self._waiting or not self._written):
            self._flush(self._waiting)
        with name_disk_fault(self.path):
            self._writer.close()


def count_rows(path: Path) -> int:
    """Count the rows of a table by what its file says of itself; raises as `read_table` does."""
    with _explain_damage(path, None):
        return int(pq.read_metadata(path).num_rows)


def read_slices(path: Path, schema: pa.Schema, columns: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
    """Iterate over some columns of a table, so many rows at a time and a row group in memory.

    Raises:
        DataError: the file is not there, is damaged, or its columns are not those of `schema`.
    """
    wanted = pa.schema([schema.field(name) for name in columns])
    left = wanted.empty_table()
    for group in _read_groups(path, list(columns)):
        left = pa.concat_tables([left, conform(group, wanted, str(path))])
        while len(left) >= rows:
            yield _to_frame(left.slice(0, rows))
            left = left.slice(rows)
    if len(left):
        yield _to_frame(left)


def _read_groups(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    with _explain_damage(path, None):
        file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        with _explain_damage(path, None):
            table = file.read_row_group(group, columns=columns)
        yield table


def _to_frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def conform(table: pa.Table | pl.DataFrame, schema: pa.Schema, name: str) -> pa.Table:
    """Bring a table to exactly the columns of `schema`, in its order and types."""
    if isinstance(table, pl.DataFrame):
        table = table.to_arrow()
    missing = set(schema.names) - set(table.column_names)
    if missing:
        raise DataError(f"{name}: columns {sorted(missing)} are missing; found {table.column_names}")
    try:
        table = table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise DataError(f"{name}: {error}; wanted {schema.to_string()}") from None
    for field in schema:
        if not field.nullable and table[field.name].null_count:
            raise DataError(f"{name}: column {field.name} holds {table[field.name].null_count} nulls")
    return table


def read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a table, or some of its columns, as polars.

    Args:
        path: of the file.
        schema: of the table.
        columns: those wanted, in this order, of which alone the file is read; all if absent.

    Raises:
        DataError: the file is not there, is damaged, or its columns are not those of `schema`.
    """
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    return _to_frame(conform(read_arrow(path, columns=columns), wanted, str(path)))


def read_arrow(path: Path, stage: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table as it lies in its file.

    Args:
        path: of the file.
        stage: that wrote it; by default the one whose folder of `data` it lies in.
        columns: those to read; all if absent.

    Raises:
        DataError: the file is not there, or is damaged.
    """
    with _explain_damage(path, stage):
        if columns is None:
            return pq.read_table(path)
        there = set(pq.read_schema(path).names)
        return pq.read_table(path, columns=[name for name in columns if name in there])


@contextmanager
def _explain_damage(path: Path, stage: str | None) -> Iterator[None]:
    """Say of a table that cannot be read what there is to do; as `read_arrow`."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} is not here: {advise('`dvc repro` makes it, `dvc pull` fetches it')}") from None
    except PermissionError:
        raise
    except Exception as error:  # Arrow raises whatever the bytes lead it to
        said = " ".join(str(error).split())[:120]
        raise DataError(f"{path} is damaged ({said}): {remake(stage or paths.stage_of(path))}") from None
