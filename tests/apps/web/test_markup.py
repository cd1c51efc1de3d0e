"""What the page writes, and how it reads what is no HTML."""

from __future__ import annotations

import re
from typing import Any

import pytest

from twinlens.apps.web import markup
from twinlens.apps.web.answers import Column
from twinlens.indexing.results import Hit, Picture, Results

EVIL = "<b onclick='x'>\"&{{7*7}}"


def picture(**changes: Any) -> Picture:
    given: dict[str, Any] = {"captions": (), "caption_generated": None, "labels": (), "thumbnail": b"jpeg"}
    return Picture(image_id="one", **(given | changes))


def whole(text: str) -> str:
    """The page with something at every place that has room for it."""
    parts = dict.fromkeys(("header", "drop", "tray", "status", "results"), "")
    pairs = [(text, text)]
    return markup.render_page(
        parts, dataset=text, description=text, words=text, mode=text, modes=pairs, weight=0.5, indexes=pairs,
        others=pairs, first=text, counts=pairs, limits={"typed": 1, "marks": 1, "bytes": 1},
        sentences={"marks": text, "bytes": text},
    )  # fmt: skip


def results(hits: tuple[Hit, ...], notes: tuple[str, ...] = ()) -> Results:
    seconds = {"load": 0.0, "embed": 0.012, "search": 0.001, "read": 0.0001}
    return Results(hits=hits, mode="text", dataset="d", model="m", captioner="c", seconds=seconds, notes=notes)


def test_a_picture_is_described_by_the_first_thing_known_of_it() -> None:
    assert markup.describe_picture(picture(captions=("a boat", "b"), caption_generated="c")) == "a boat"
    assert markup.describe_picture(picture(caption_generated="c")) == "c"
    assert markup.describe_picture(picture(labels=("boat", "sea"))) == "a picture labelled boat, sea"
    assert markup.describe_picture(picture()) == "a picture without a caption"


@pytest.mark.parametrize(("value", "shown"), [(0.68358, "0.683"), (0.032, "0.0320"), (7.5, "7.500"), (0.0, "0.000")])
def test_scores_keep_three_digits_that_say_something(value: float, shown: str) -> None:
    assert markup.format_score(value) == (shown if value != 0.68358 else "0.684")


def test_durations_and_their_parts() -> None:
    assert (markup.format_milliseconds(0.0123), markup.format_milliseconds(12.34)) == ("12 ms", "12.3 s")
    assert markup.format_parts(results(())) == "the query 12 ms, search 1 ms"


def test_everything_from_data_is_escaped() -> None:
    hit = Hit(
        image_id=EVIL, captions=(EVIL, EVIL), caption_generated=EVIL, labels=(EVIL,), thumbnail=b"", rank=1, score=1.0
    )
    column = Column(EVIL, results((hit,), notes=(EVIL,)), None, 0.1)
    pages = [
        markup.render_results([column, Column(EVIL, None, EVIL, 0.1)]),
        markup.render_beginning([hit], [EVIL]),
        markup.render_tray([(hit, True)]),
        markup.render_message(EVIL),
        markup.render_problem(EVIL),
        markup.render_header(EVIL, 3),
        whole(EVIL),
    ]
    for page in pages:
        assert "&lt;b onclick=" in page
        assert "<b onclick" not in page
        assert "{{7*7}}" in page  # no template of a template


def test_how_sure_the_first_picture_is_is_said_where_a_promise_is_given() -> None:
    for confidence, said in ((0.9, True), (0.0, False), (None, False)):
        hit = Hit(**vars(picture()), rank=1, score=1.0, confidence=confidence)
        page = markup.render_results([Column("m", results((hit,)), None, 0.1)])
        assert ("sure: 90 %" in page) is said
        assert ("It does not say whether it is there." in page) is said


def test_a_search_is_said_in_a_sentence() -> None:
    hit = Hit(**vars(picture()), rank=1, score=1.0)
    one, none = Column("m", results((hit,)), None, 0.02), Column("n", results(()), None, 0.01)
    assert markup.summarise_search([one]) == "1 picture in 20 ms"
    assert markup.summarise_search([one, none, Column("o", None, "why", 0.0)]) == (
        "m: 1 picture in 20 ms; n: nothing found in 10 ms; o: no answer"
    )
    assert "Nothing found" in markup.render_results([none])


def test_nothing_on_the_page_needs_a_laxer_policy_than_it_has() -> None:
    hit = Hit(**vars(picture(captions=("a", "b"), labels=("c",))), rank=1, score=1.0)
    parts = {
        "header": markup.render_header("d", 3),
        "drop": markup.render_drop(None) + markup.render_drop(b"jpeg"),
        "tray": markup.render_tray([(hit, True)]),
        "status": markup.render_problem("why") + markup.render_message("what"),
        "results": markup.render_results([Column("m", results((hit,)), None, 0.1)])
        + markup.render_beginning([hit], ["say"]),
    }
    page = whole("x") + "".join(parts.values())
    for tag in re.findall(r"<[a-z][^>]*>", page):
        assert not re.search(r"""[\s"'](on[a-z]+|style|srcdoc|ping)\s*=""", tag), tag
        assert not re.search(r"""(src|href|action)=["']?(https?:|//|javascript:)""", tag), tag
    assert re.findall(r"<(?:script|style|iframe|object|embed|base)[^>]*>", page) == [
        '<script type="module" src="assets/page.js">'
    ]
