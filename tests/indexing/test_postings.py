"""BM25 from lists by word: a case worked by hand, LanceDB's own scores, and nothing to search."""

from __future__ import annotations

import math
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import FTS
from lancedb.query import MatchQuery

from tests.indexing.conftest import POOL
from twinlens import Searcher
from twinlens.indexing import postings
from twinlens.indexing.postings import Postings
from twinlens.retrieval.tokenize import tokenize


def test_a_case_worked_by_hand(tmp_path: Path) -> None:
    documents = [["red", "car", "red"], ["car"], [], ["blue", "bus", "in", "snow"]]
    postings.write(tmp_path, documents)
    found = Postings(tmp_path, 4)
    assert found
    idf_red, idf_car = math.log(1 + 3.5 / 1.5), math.log(1 + 2.5 / 2.5)  # 4 documents, mean length 2
    red = idf_red * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2))
    car_0 = idf_car * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 3 / 2))
    car_1 = idf_car * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 1 / 2))
    assert found.scores(["red", "car"]) == pytest.approx([red + car_0, car_1, 0, 0], rel=1e-6)
    assert found.scores(["car", "car", "zeppelin"]) == pytest.approx([2 * car_0, 2 * car_1, 0, 0], rel=1e-6)
    assert not found.scores([]).any()


@pytest.mark.parametrize("documents", [[], [[], []]])
def test_where_there_are_no_words_there_is_nothing_to_search(tmp_path: Path, documents: list[list[str]]) -> None:
    postings.write(tmp_path, documents)
    assert not Postings(tmp_path, len(documents))
    assert not Postings(tmp_path, len(documents)).scores(["car"]).any()


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("text", ["a red car in the snow", "machine", "two boats, two boats", "large small"])
def test_scores_are_those_of_lancedb_on_the_same_captions(text: str, tmp_path: Path) -> None:
    index = Searcher().index
    texts = [(*one.captions, one.caption_generated or "") for one in index.pictures(range(POOL))]
    column = [" ".join(word for text in own for word in tokenize(text)) for own in texts]
    table = lancedb.connect(tmp_path).create_table("own", pa.table({"row": range(POOL), "words": column}))
    plain = FTS(base_tokenizer="whitespace", lower_case=False, stem=False, remove_stop_words=False, ascii_folding=False)
    table.create_index("words", config=plain)
    query = MatchQuery(" ".join(tokenize(text)), "words")
    rows = table.search(query, query_type="fts").limit(POOL).select(["row", "_score"]).to_arrow()
    wanted = np.zeros(POOL)
    wanted[rows["row"].to_numpy()] = rows["_score"].to_numpy()
    assert wanted.any()
    assert index.postings.scores(tokenize(text)) == pytest.approx(wanted, rel=1e-5)
