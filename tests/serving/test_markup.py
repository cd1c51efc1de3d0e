"""What the page writes, and how it reads what is no HTML."""

from __future__ import annotations

from typing import Any

import pytest

from twinlens.indexing.results import Hit, Picture, Results
from twinlens.serving import markup
from twinlens.serving.answers import Column

EVIL = "<b onclick='x'>\"&{{7*7}}"


def picture(**changes: Any) -> Picture:
    given: dict[str, Any] = {"captions": (), "caption_generated": None, "labels": (), "thumbnail": b"jpeg"}
    return Picture(image_id="one", **(given | changes))


def results(hits: tuple[Hit, ...], notes: tuple[str, ...] = ()) -> Results:
    seconds = {"load": 0.0, "embed": 0.012, "search": 0.001, "read": 0.0001}
    return Results(hits=hits, mode="text", dataset="d", model="m", captioner="c", seconds=seconds, notes=notes)


def test_a_picture_is_described_by_the_first_thing_known_of_it() -> None:
    assert markup.described(picture(captions=("a boat", "b"), caption_generated="c")) == "a boat"
    assert markup.described(picture(caption_generated="c")) == "c"
    assert markup.described(picture(labels=("boat", "sea"))) == "a picture labelled boat, sea"
    assert markup.described(picture()) == "a picture without a caption"


@pytest.mark.parametrize(("value", "shown"), [(0.68358, "0.683"), (0.032, "0.0320"), (7.5, "7.500"), (0.0, "0.000")])
def test_scores_keep_three_digits_that_say_something(value: float, shown: str) -> None:
    assert markup.score(value) == (shown if value != 0.68358 else "0.684")


def test_durations_and_their_parts() -> None:
    assert (markup.milliseconds(0.0123), markup.milliseconds(12.34)) == ("12 ms", "12.3 s")
    assert markup.parts(results(())) == "the query 12 ms, search 1 ms"


def test_everything_from_data_is_escaped() -> None:
    hit = Hit(
        image_id=EVIL, captions=(EVIL, EVIL), caption_generated=EVIL, labels=(EVIL,), thumbnail=b"", rank=1, score=1.0
    )
    column = Column(EVIL, results((hit,), notes=(EVIL,)), None, 0.1)
    pages = [
        markup.results([column, Column(EVIL, None, EVIL, 0.1)]),
        markup.beginning([hit], [EVIL]),
        markup.tray([(hit, True)]),
        markup.told(EVIL),
        markup.problem(EVIL),
        markup.header(EVIL, 3),
    ]
    for page in pages:
        assert "&lt;b onclick=" in page
        assert "<b onclick" not in page
        assert "{{7*7}}" in page  # no template of a template


def test_a_search_is_said_in_a_sentence() -> None:
    hit = Hit(**vars(picture()), rank=1, score=1.0)
    one, none = Column("m", results((hit,)), None, 0.02), Column("n", results(()), None, 0.01)
    assert markup.status([one]) == "1 picture in 20 ms"
    assert markup.status([one, none, Column("o", None, "why", 0.0)]) == (
        "m: 1 picture in 20 ms; n: nothing found in 10 ms; o: no answer"
    )
    assert "Nothing found" in markup.results([none])
