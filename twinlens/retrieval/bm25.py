"""BM25 of many queries against all documents, exact, also where a query is a part of one of the documents.

The score of a document is the sum, over the words of the query (a word twice counts twice), of

    idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean length)),    idf = ln(1 + (N - n + .5) / (n + .5))

with tf the word's count in the document, n the documents that hold it and N all of them: Lucene's
formula with k1 = 1.2 and b = 0.75, as LanceDB's full-text search scores.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64, Int
from scipy import sparse

from twinlens.core.errors import DataError

K1, B = 1.2, 0.75


@dataclass(frozen=True)
class Bm25:
    """The documents, as counts of words."""

    column_of: dict[str, int]  # of each word
    counts: sparse.csr_array  # (documents, words), float64
    of_all: Bm25 | None = None  # whose documents these are some of, which the formula counts

    @classmethod
    def of(cls, documents: Iterable[Sequence[str]]) -> Bm25:
        """Count the words of every document, each of which is looked at once; a document may be empty."""
        column_of: dict[str, int] = {}
        columns, lengths = array("q"), array("q")
        for document in documents:
            columns.extend(column_of.setdefault(word, len(column_of)) for word in document)
            lengths.append(len(document))
        return cls(column_of, _count(columns, lengths, len(column_of)))

    def queries(self, queries: Sequence[Sequence[str]]) -> sparse.csr_array:
        """Queries as (queries, words) counts; words that no document holds have no column and score nothing."""
        known = [[self.column_of[word] for word in text if word in self.column_of] for text in queries]
        columns = array("q", (column for own in known for column in own))
        return _count(columns, array("q", map(len, known)), len(self.column_of))

    def scores(
        self, queries: sparse.csr_array, own_rows: Int[np.ndarray, " queries"] | None = None
    ) -> Float32[np.ndarray, "queries documents"]:
        """Compute the scores of all documents, 0 where no word is shared.

        Args:
            queries: of `queries`.
            own_rows: the document that a query is a part of, -1 where it is of none. That document is
                scored for the query as if the query's words had never been in it: their counts and the
                document's length are without them. What is said of the whole corpus (N, n, mean
                length) stays, as one query's words hardly move it.

        Raises:
            DataError: a query is not a part of the document that `own_rows` names.
        """
        summed = queries @ self._postings
        summed.data = summed.data.astype(np.float32)  # the sums are of float64
        found: np.ndarray = summed.toarray()
        if own_rows is not None and (chosen := np.flatnonzero(own_rows >= 0)).size:
            found[chosen, own_rows[chosen]] = self._without(queries[chosen], own_rows[chosen])
        return found

    def restrict(self, first: int, last: int) -> Bm25:
        """The documents from `first` to before `last`; their scores are those that they have among all."""
        return Bm25(self.column_of, self.counts[first:last], self.of_all or self)

    def _without(self, queries: sparse.csr_array, rows: Int[np.ndarray, " queries"]) -> Float64[np.ndarray, " queries"]:
        """The score of each query's own document without the query."""
        rest = self.counts[rows] - queries
        if rest.nnz and rest.data.min() < 0:
            query = int(np.flatnonzero(rest.min(axis=1).toarray().ravel() < 0)[0])
            raise DataError(
                f"BM25: query {query} is not a part of document {rows[query]}, which it should be left out of"
            )
        asked = (rest * (queries > 0)).tocsr()  # the words of the query that still stand there
        of_entry = np.repeat(np.arange(len(rows)), np.diff(asked.indptr))
        lengths = np.asarray(rest.sum(axis=1)).ravel()
        asked.data = self._saturated(asked.data, lengths[of_entry]) * self._idf[asked.indices]
        return np.asarray((asked * queries).sum(axis=1)).ravel()

    @cached_property
    def weights(self) -> sparse.csr_array:
        """Contribution of each word (columns) of each document (rows) to the score of a query that has it once."""
        weights = self.counts.copy()
        of_entry = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
        weights.data = self._saturated(weights.data, self._lengths[of_entry]) * self._idf[weights.indices]
        return weights

    @cached_property
    def _postings(self) -> sparse.csr_array:
        """The same with a word a row."""
        return self.weights.T.tocsr()

    def _saturated(
        self, counts: Float64[np.ndarray, " entries"], lengths: Float64[np.ndarray, " entries"]
    ) -> Float64[np.ndarray, " entries"]:
        mean = (self.of_all or self)._mean_length
        return counts * (K1 + 1) / (counts + K1 * (1 - B + B * lengths / mean))

    @cached_property
    def _lengths(self) -> Float64[np.ndarray, " documents"]:
        return np.asarray(self.counts.sum(axis=1)).ravel()

    @cached_property
    def _mean_length(self) -> float:
        return float(self._lengths.mean()) if self._lengths.any() else 1.0

    @cached_property
    def _idf(self) -> Float64[np.ndarray, " words"]:
        if self.of_all is not None:
            return self.of_all._idf
        holding = np.bincount(self.counts.indices, minlength=self.counts.shape[1])
        return np.log1p((self.counts.shape[0] - holding + 0.5) / (holding + 0.5))


def _count(columns: array[int], lengths: array[int], words: int) -> sparse.csr_array:
    """Count the words of texts, given as the columns of all their words one after the other, and how many each has."""
    rows = np.repeat(np.arange(len(lengths)), np.asarray(lengths))
    entries = (np.ones(len(columns)), (rows, np.asarray(columns)))
    counted = sparse.coo_array(entries, shape=(len(lengths), words)).tocsr()
    counted.sum_duplicates()
    return counted
