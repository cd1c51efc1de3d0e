"""BM25 over the captions, from lists of pictures by word that are mapped into memory.

LanceDB's own full-text search takes twice as long, and LanceDB two seconds of a processor to import. The score is the
same: the sum, over the words of the query (a word twice counts twice), of

    idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean length)),    idf = ln(1 + (N - n + .5) / (n + .5))

with tf the word's count in a picture's captions, n the pictures that have it and N all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

K1, B = 1.2, 0.75
WORDS = "postings.words.arrow"


class Postings:
    """The lists in one folder, opened."""

    def __init__(self, folder: Path, pictures: int) -> None:
        self.folder, self.pictures = folder, pictures

    def __bool__(self) -> bool:
        return bool(self._column_of)

    def scores(self, tokens: Sequence[str]) -> Float32[np.ndarray, " pictures"]:
        """Scores of all pictures, 0 where no word is shared; a new array."""
        total = np.zeros(self.pictures)
        for word, count in Counter(tokens).items():
            if (column := self._column_of.get(word)) is not None:
                mine = slice(self._starts[column], self._starts[column + 1])
                total[self._rows[mine]] += count * self._weights[mine]  # a list holds a picture once
        return total.astype(np.float32)

    @cached_property
    def _column_of(self) -> dict[str, int]:
        words = pa.ipc.open_file(pa.memory_map(str(self.folder / WORDS))).read_all()["word"].to_pylist()
        return {word: column for column, word in enumerate(words)}

    @cached_property
    def _starts(self) -> np.ndarray:
        return _mapped(self.folder, "starts")

    @cached_property
    def _rows(self) -> np.ndarray:
        return _mapped(self.folder, "rows")

    @cached_property
    def _weights(self) -> np.ndarray:
        return _mapped(self.folder, "weights")


def write(folder: Path, documents: Iterable[Sequence[str]]) -> None:
    """Write the lists of some pictures, given as the words of each."""
    column_of: dict[str, int] = {}
    columns = [[column_of.setdefault(word, len(column_of)) for word in words] for words in documents]
    lengths = np.array([len(own) for own in columns], dtype=np.int64)
    flat = np.fromiter((column for own in columns for column in own), dtype=np.int64, count=int(lengths.sum()))
    # one entry for each word of each picture, by word, then by picture
    keys, counts = np.unique(flat * len(columns) + np.repeat(np.arange(len(columns)), lengths), return_counts=True)
    column, row = keys // max(len(columns), 1), keys % max(len(columns), 1)
    holding = np.bincount(column, minlength=len(column_of))
    idf = np.log1p((len(columns) - holding + 0.5) / (holding + 0.5))
    relative = lengths[row] / lengths.mean() if len(flat) else lengths[row]
    weights = idf[column] * counts * (K1 + 1) / (counts + K1 * (1 - B + B * relative))
    starts = np.concatenate([[0], np.cumsum(holding)]).astype(np.int64)
    for name, values in (("starts", starts), ("rows", row.astype(np.int32)), ("weights", weights)):
        np.save(folder / f"postings.{name}.npy", values)
    table = pa.table({"word": pa.array(list(column_of), pa.string())})
    with pa.OSFile(str(folder / WORDS), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _mapped(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"postings.{name}.npy", mmap_mode="r").view(np.ndarray)
