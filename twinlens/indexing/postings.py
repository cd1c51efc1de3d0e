"""BM25 over the captions, from inverted lists (pictures by word) that are mapped into memory.

LanceDB's own full-text search of 100,000 pictures takes 50 ms and does not get faster for eight who ask at once; adding
up these lists takes two. The score is the same, and that of the evaluated retrievers: `twinlens.retrieval.bm25` has the
formula.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

if TYPE_CHECKING:
    from twinlens.retrieval.bm25 import Bm25

WORDS = "postings.words.arrow"


class Postings:
    """The lists in one folder, opened."""

    def __init__(self, folder: Path, pictures: int) -> None:
        self.folder, self.pictures = folder, pictures

    def __bool__(self) -> bool:
        return bool(self._column_of)

    def knows(self, tokens: Sequence[str]) -> bool:
        """Whether any caption holds one of these words."""
        return any(token in self._column_of for token in tokens)

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
    from twinlens.retrieval.bm25 import Bm25  # scipy takes half a second, which a query need not wait for

    write_counted(folder, Bm25.of(documents))


def write_counted(folder: Path, counted: Bm25) -> None:
    """Write the lists of documents whose words are counted."""
    by_word = counted.weights.tocsc()  # within a word, pictures in their order
    by_word.sort_indices()
    parts = {
        "starts": by_word.indptr.astype(np.int64),
        "rows": by_word.indices.astype(np.int32),
        "weights": by_word.data,
    }
    for name, values in parts.items():
        np.save(folder / f"postings.{name}.npy", values)
    table = pa.table({"word": pa.array(list(counted.column_of), pa.string())})
    with pa.OSFile(str(folder / WORDS), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _mapped(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"postings.{name}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
