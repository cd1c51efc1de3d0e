"""BM25: by hand, against LanceDB's full-text search, and a query left out of its own document."""

from __future__ import annotations

from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import FTS

from twinlens.core.errors import DataError
from twinlens.retrieval.bm25 import Bm25

DOCUMENTS = [["a", "b"], ["a", "a", "c", "d"], []]  # mean length 2


def drawn(count: int, seed: int, longest: int = 60) -> list[list[str]]:
    """Documents of frequent and rare words, as long as captions together are."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, 41)
    names = np.array([f"w{n}" for n in range(40)])
    return [rng.choice(names, rng.integers(1, longest), p=frequency / frequency.sum()).tolist() for _ in range(count)]


def test_by_hand() -> None:
    index = Bm25.of(DOCUMENTS)
    idf_a, idf_c = np.log(1 + 1.5 / 2.5), np.log(1 + 2.5 / 1.5)
    short = idf_a * 1 * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / 2))
    long = (idf_a * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 4 / 2)), idf_c * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 4 / 2)))
    found = index.scores(index.queries([["a"], ["a", "c"], ["c", "c"], ["unknown"], []]))
    expected = [[short, long[0], 0], [short, sum(long), 0], [0, 2 * long[1], 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


def test_it_agrees_with_the_full_text_search_of_lancedb(tmp_path: Path) -> None:
    documents, queries = drawn(300, 0), [*drawn(20, 1, longest=8), ["w0", "w30", "w30"]]
    table = lancedb.connect(tmp_path).create_table(
        "texts", pa.table({"row": range(len(documents)), "text": [" ".join(own) for own in documents]})
    )
    plain = FTS(base_tokenizer="whitespace", stem=False, remove_stop_words=False, lower_case=False, ascii_folding=False)
    table.create_index("text", config=plain)
    index = Bm25.of(documents)
    ours = index.scores(index.queries(queries))
    for query, scores in zip(queries, ours, strict=True):
        theirs = table.search(" ".join(query), query_type="fts").limit(len(documents)).to_arrow()
        rows, wanted = theirs["row"].to_numpy(), theirs["_score"].to_numpy()
        assert set(rows) == set(np.flatnonzero(scores > 0))
        np.testing.assert_allclose(scores[rows], wanted, rtol=1e-5)
        assert (np.diff(scores[rows]) <= 1e-5).all()  # in their order


def test_a_query_is_left_out_of_its_own_document_as_if_it_had_never_been_there() -> None:
    rng = np.random.default_rng(2)
    parts = [[own, *drawn(3, 10 + n, longest=9)] for n, own in enumerate(drawn(50, 3, longest=9))]
    documents = [[word for part in own for word in part] for own in parts]
    index = Bm25.of(documents)
    chosen = rng.integers(0, 4, 50)
    queries = index.queries([own[part] for own, part in zip(parts, chosen, strict=True)])
    whole, found = index.scores(queries), index.scores(queries, np.arange(50))
    for row, (own, part) in enumerate(zip(parts, chosen, strict=True)):
        rest = [word for n, other in enumerate(own) if n != part for word in other]
        tf = {word: rest.count(word) for word in set(rest)}
        expected = sum(
            index._idf[index.column_of[word]] * tf.get(word, 0) * 2.2
            / (tf.get(word, 0) + 1.2 * (0.25 + 0.75 * len(rest) / index._lengths.mean()))
            for word in own[part]
        )  # fmt: skip
        assert found[row, row] == pytest.approx(expected, rel=1e-6)
        removed = Bm25.of([*documents[:row], rest, *documents[row + 1 :]])  # for real: N, n and mean move a little
        real = removed.scores(removed.queries([own[part]]))[0, row]
        assert found[row, row] == pytest.approx(real, rel=0.05)
    others = ~np.eye(50, dtype=bool)
    np.testing.assert_array_equal(found[others], whole[others])
    assert (found[~others] < whole[~others]).all()


def test_minus_one_is_a_query_of_no_document() -> None:
    index = Bm25.of(DOCUMENTS)
    queries = index.queries([["a"], ["a"], ["a"]])
    np.testing.assert_array_equal(index.scores(queries, np.array([-1, -1, -1])), index.scores(queries))
    assert index.scores(queries, np.array([-1, 0, 1]))[1, 0] == 0  # nothing of `a` is left there
    assert index.scores(queries, np.array([-1, 0, 1]))[2, 1] > 0  # one of two is


def test_a_query_that_is_no_part_of_its_document_is_refused() -> None:
    index = Bm25.of(DOCUMENTS)
    with pytest.raises(DataError, match="query 1 is not a part of document 0"):
        index.scores(index.queries([["a"], ["a", "a"]]), np.array([0, 0]))


def test_documents_without_a_word_score_nothing() -> None:
    index = Bm25.of([[], []])
    assert index.scores(index.queries([["a"]])).tolist() == [[0, 0]]
