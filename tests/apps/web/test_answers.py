"""What the page asks: marks, pictures, columns."""

from __future__ import annotations

import io
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from tests.indexing.conftest import CAPTIONER, MODEL
from twinlens import Searcher
from twinlens.apps.web import answers
from twinlens.apps.web.answers import (
    SearchRequest,
    VisualQuery,
    answer,
    choose_mode,
    choose_pictures,
    refuse_untaken,
    take_picture,
    turn_to_examples,
)
from twinlens.apps.web.shelf import IndexName, Shelf
from twinlens.config.load import read_params
from twinlens.core.errors import QueryError

NAME = IndexName(MODEL, CAPTIONER)


@pytest.fixture
def shelf(root: Path) -> Shelf:
    return Shelf(read_params())


def png(side: int = 40) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(out, "PNG")
    return out.getvalue()


def test_a_mark_is_set_and_turned() -> None:
    asked = VisualQuery().with_mark("a", True).with_mark("b", False)
    assert (asked.liked, asked.disliked) == (("a",), ("b",))
    turned = asked.with_mark("a", False)
    assert (turned.liked, turned.disliked) == ((), ("b", "a"))


def test_marks_come_to_an_end() -> None:
    asked = VisualQuery(marks=tuple((str(i), True) for i in range(answers.MAX_MARKS)))
    assert len(asked.with_mark("0", False).marks) == answers.MAX_MARKS
    with pytest.raises(QueryError, match="take a mark away first"):
        asked.with_mark("one more", True)


def test_marks_are_examples_where_there_is_a_good_one_else_they_move_the_words() -> None:
    def mode(asked: VisualQuery) -> str:
        return turn_to_examples(SearchRequest("boat", asked, "auto", 0.5, 12)).mode

    assert mode(VisualQuery().with_mark("a", True)) == "exemplar"
    assert mode(VisualQuery(picture=b"jpeg")) == "exemplar"
    assert mode(VisualQuery().with_mark("a", False)) == "vector"


def test_the_exemplar_mode_ends_with_its_last_example_and_no_other_mode_does() -> None:
    nothing, disliked = VisualQuery(), VisualQuery().with_mark("a", False)
    assert [choose_mode("exemplar", asked) for asked in (nothing, disliked)] == ["auto", "auto"]
    for asked in (VisualQuery().with_mark("a", True), VisualQuery(picture=b"jpeg")):
        assert choose_mode("exemplar", asked) == "exemplar"
    assert [choose_mode(mode, nothing) for mode in ("hybrid", "text")] == ["hybrid", "text"]


def test_a_picture_is_brought_to_what_can_be_searched_by(shelf: Shelf) -> None:
    jpeg, notes = take_picture(shelf, png())
    assert Image.open(io.BytesIO(jpeg)).format == "JPEG"
    assert notes == []
    assert take_picture(shelf, jpeg) == (jpeg, [])  # so it is when the browser sends it with a search


def test_what_is_no_picture_is_refused_whatever_it_names(shelf: Shelf, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    for raw in (b"words", str(secret).encode(), secret.as_uri().encode(), b'{"path": "params.yaml"}'):
        with pytest.raises(QueryError, match="not a picture"):
            take_picture(shelf, raw)
    with pytest.raises(QueryError, match="empty file"):
        take_picture(shelf, b"")


def test_a_picture_over_the_limit_is_not_opened(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_IMAGE_BYTES", 10)
    with pytest.raises(QueryError, match="make it smaller"):
        take_picture(shelf, png())


def test_every_index_answers_or_says_why_not(shelf: Shelf) -> None:
    wanted = SearchRequest("boat", VisualQuery(), "vector", 0.5, 5)
    good, bad = answer(shelf, [NAME, IndexName("vit-b-32", CAPTIONER)], wanted)
    assert good.results is not None
    assert [hit.image_id for hit in good.results.hits] == [hit.image_id for hit in Searcher().search("boat", k=5).hits]
    assert good.seconds >= sum(good.results.seconds.values())
    assert bad.results is None
    assert "dvc exp run -S model=vit-b-32 index" in (bad.problem or "")


def test_a_fault_of_ours_is_a_sentence_here_and_a_traceback_in_the_log(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(Searcher, "search", broken)
    with caplog.at_level(logging.ERROR, "twinlens"):
        (column,) = answer(shelf, [NAME], SearchRequest("boat", VisualQuery(), "auto", 0.5, 5))
    assert column.problem == answers.FAILED
    assert "secret detail" in caplog.text


def test_eight_clients_get_what_one_would(shelf: Shelf) -> None:
    texts = [f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("boat", "bus", "fish")]
    some = [picture.image_id for picture in choose_pictures(shelf, NAME, 4)]
    asked = VisualQuery(marks=((some[0], True), (some[1], False)))
    queries = [SearchRequest(text, asked, mode, 0.5, 8) for text in texts for mode in ("vector", "hybrid", "exemplar")]

    def found(wanted: SearchRequest) -> list[str]:
        (column,) = answer(shelf, [NAME], wanted)
        assert column.results is not None
        return [hit.image_id for hit in column.results.hits]

    alone = [found(wanted) for wanted in queries]
    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(found, queries)) == alone


def test_the_beginning_is_spread_over_the_pool(shelf: Shelf) -> None:
    ids = shelf.searcher(NAME).index.ids
    assert [picture.image_id for picture in choose_pictures(shelf, NAME, 3)] == [ids[0], ids[20], ids[40]]
    assert len(choose_pictures(shelf, NAME, 1000)) == len(ids)


def test_a_search_opens_only_pictures_that_the_page_could_have_made(shelf: Shelf) -> None:
    for side in (40, 2_000):
        refuse_untaken(shelf, take_picture(shelf, png(side))[0])
    large = io.BytesIO()
    Image.new("RGB", (2_000, 2_000), "red").save(large, "JPEG")
    for other in (large.getvalue(), png(), b"words", b"", b"\xff\xd8\xff"):
        with pytest.raises(QueryError, match="drop it once more"):
            refuse_untaken(shelf, other)
