"""The filter's rules: what cannot be used is dropped, and every drop is listed with its rule."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.config.params import FilterParams
from twinlens.core import tables
from twinlens.core.errors import DataError
from twinlens.datasets.annotations import SPLITS, Annotations, RawCaption, RawComposedQuery, RawImage
from twinlens.datasets.captions import list_words
from twinlens.datasets.filter import Kept, apply_rules, resplit
from twinlens.datasets.spelling import is_unicode, printable
from twinlens.retrieval.tokenize import tokenize

BROKEN = b"caf\xe9".decode("utf-8", "surrogateescape")  # Latin-1 bytes read as UTF-8
LENIENT = FilterParams(require_caption=False, require_label=False)


def image(image_id: str, labels: tuple[str, ...] = ("cat",), split: str = "train", file: str = "") -> RawImage:
    return RawImage(image_id, file or f"{image_id}.jpg", split, labels)


def caption(image_id: str, text: str = "a cat") -> RawCaption:
    return RawCaption(image_id, text)


def rules(images: list[RawImage], captions: list[RawCaption], **changes: Any) -> Kept:
    return apply_rules(Annotations(images, captions), LENIENT.model_copy(update=changes))


def drops(kept: Kept) -> list[tuple[str, str, str]]:
    return kept.dropped.select("kind", "id", "rule").rows()


def test_a_clean_dataset_is_kept_whole_and_in_its_order() -> None:
    kept = rules([image("b"), image("a", split="test")], [caption("a", "one"), caption("b", "two")])
    assert kept.images["image_id"].to_list() == ["b", "a"]
    assert kept.images["split"].to_list() == ["train", "test"]
    assert kept.captions.rows() == [("a#0", "a", "one"), ("b#0", "b", "two")]
    assert kept.dropped.is_empty()
    assert kept.counts == {"images": {"found": 2, "kept": 2}, "captions": {"found": 2, "kept": 2}}


def test_labels_are_sorted_and_named_once() -> None:
    kept = rules([image("a", labels=("dog", "cat", "dog")), image("b", labels=())], [])
    assert kept.images["labels"].to_list() == [["cat", "dog"], []]


def test_captions_of_a_picture_are_numbered_from_zero_wherever_they_stand() -> None:
    kept = rules([image("a"), image("b")], [caption("a", "x"), caption("b", "x"), caption("a", "y"), caption("a", "z")])
    assert kept.captions["caption_id"].to_list() == ["a#0", "b#0", "a#1", "a#2"]


def test_a_dropped_caption_leaves_no_gap_in_the_numbers() -> None:
    kept = rules([image("a")], [caption("a", "one"), caption("a", " "), caption("a", "two")])
    assert kept.captions.rows() == [("a#0", "a", "one"), ("a#1", "a", "two")]


def test_white_space_in_a_caption_is_a_single_space() -> None:
    kept = rules([image("a")], [caption("a", "  a\tcat \n on\u00a0a   mat\n")])
    assert kept.captions["text"].to_list() == ["a cat on a mat"]


@pytest.mark.parametrize("text", ["", " ", "\n\t \r\n", "\u00a0\u2003"])
def test_an_empty_caption_is_dropped_and_listed(text: str) -> None:
    kept = rules([image("a")], [caption("a", text), caption("a", "a cat")])
    assert drops(kept) == [("caption", "a", "empty")]
    assert len(kept.captions) == 1


def test_a_caption_that_is_no_utf8_is_dropped_and_listed_with_its_bytes() -> None:
    kept = rules([image("a")], [caption("a", f"a {BROKEN}"), caption("a", "a café \U0001f408")])
    assert drops(kept) == [("caption", "a", "not_utf8")]
    assert "caf" in kept.dropped["reason"][0]
    assert kept.captions["text"].to_list() == ["a café \U0001f408"]


@pytest.mark.parametrize("text", ["...", "-", "?!", "\U0001f408"])
def test_a_caption_without_a_letter_or_digit_is_empty(text: str) -> None:
    kept = rules([image("a")], [caption("a", text), caption("a", "猫"), caption("a", "2")])
    assert drops(kept) == [("caption", "a", "empty")]
    assert kept.captions["text"].to_list() == ["猫", "2"]


@pytest.mark.parametrize("again", ["A black dog runs.", "a black DOG runs", "Black dogs? no", "A black dog running!"])
def test_a_caption_that_says_again_what_another_of_its_picture_says_is_dropped_and_listed(again: str) -> None:
    kept = rules(
        [image("a"), image("b")], [caption("a", "A black dog runs."), caption("a", again), caption("b", again)]
    )
    repeated = list_words(again) == list_words("A black dog runs.")
    assert drops(kept) == ([("caption", "a", "repeated")] if repeated else [])
    assert kept.captions["text"].to_list() == ["A black dog runs.", *([] if repeated else [again]), again]


def test_captions_that_several_people_wrote_for_a_benchmark_stay_all_of_them() -> None:
    said = Annotations([image("a")], [caption("a", "A dog."), caption("a", "a dog")], repeats_meant=True)
    assert apply_rules(said, LENIENT).captions["text"].to_list() == ["A dog.", "a dog"]


@pytest.mark.parametrize(
    "text", ["Two DOGS, running!", "STRASSE straße", "\ufb01sh \uff24\uff4f\uff47", "a_b it's 2,5"]
)
def test_captions_are_told_apart_as_search_by_words_tells_them(text: str) -> None:
    assert list(list_words(text)) == tokenize(text)


def test_thai_captions_that_differ_in_their_vowels_are_two() -> None:
    assert list_words("กิน") != list_words("กัน")


def test_a_caption_of_an_unknown_picture_is_dropped_and_listed_even_when_its_bytes_are_broken() -> None:
    kept = rules([image("a")], [caption("nobody", "a dog"), caption("nobody", BROKEN), caption("a")])
    assert drops(kept) == [("caption", "nobody", "unknown_image")] * 2
    assert kept.dropped["reason"][0] == "no such image: 'a dog'"


def test_the_second_picture_of_one_id_is_dropped_and_names_the_first() -> None:
    kept = rules([image("a", file="one.jpg"), image("a", labels=("dog",), file="two.jpg")], [caption("a")])
    assert kept.images.rows() == [("a", "one.jpg", "train", ["cat"])]
    assert drops(kept) == [("image", "a", "duplicate_id"), ("caption", "a", "ambiguous_id")]
    assert kept.dropped["reason"][0] == "two.jpg has the id of one.jpg"
    assert kept.captions.is_empty()  # nobody knows whose it was


def test_ids_that_differ_in_case_alone_are_two_pictures() -> None:
    assert len(rules([image("A"), image("a")], []).images) == 2


@pytest.mark.parametrize(
    "broken",
    [image(BROKEN), image("b", file=f"{BROKEN}.jpg"), image("b", labels=("cat", BROKEN))],
    ids=["id", "file", "label"],
)
def test_a_picture_whose_names_are_no_utf8_is_dropped_and_listed(broken: RawImage) -> None:
    kept = rules([broken, image("a")], [caption("a"), caption(broken.image_id)])
    assert kept.images["image_id"].to_list() == ["a"]
    assert [rule for _, _, rule in drops(kept)] == ["not_utf8", "dropped_image"]


def test_names_beyond_ascii_are_kept() -> None:
    kept = rules([image("été", file="фото/été.jpg", labels=("żaba",))], [caption("été", "雪の中の猫")])
    assert kept.images.row(0) == ("été", "фото/été.jpg", "train", ["żaba"])
    assert kept.captions["caption_id"].to_list() == ["été#0"]


def test_a_picture_without_a_usable_caption_is_dropped_where_captions_are_required() -> None:
    images, captions = [image("a"), image("b"), image("c")], [caption("a"), caption("b", " "), caption("c", BROKEN)]
    kept = rules(images, captions, require_caption=True)
    assert kept.images["image_id"].to_list() == ["a"]
    assert drops(kept)[2:] == [("image", "b", "require_caption"), ("image", "c", "require_caption")]
    assert rules(images, captions).images["image_id"].to_list() == ["a", "b", "c"]


def test_a_picture_without_a_label_is_dropped_with_its_captions_where_labels_are_required() -> None:
    images, captions = [image("a"), image("b", labels=())], [caption("a"), caption("b"), caption("b", "two cats")]
    kept = rules(images, captions, require_label=True)
    assert kept.images["image_id"].to_list() == ["a"]
    assert kept.captions["image_id"].to_list() == ["a"]
    assert drops(kept) == [("image", "b", "require_label"), *[("caption", "b", "dropped_image")] * 2]


def test_an_unknown_split_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(DataError, match="image a is in split 'dev'; known splits: train, val, test"):
        rules([image("a", split="dev")], [])


def test_nothing_left_is_an_error_that_shows_why() -> None:
    with pytest.raises(DataError, match=r"no picture of 1 is left .*require_caption"):
        rules([image("a")], [], require_caption=True)
    with pytest.raises(DataError, match="no picture of 0 is left"):
        rules([], [])


def test_text_is_whole_or_shown_with_its_broken_bytes() -> None:
    assert is_unicode("a café \U0001f408")
    assert not is_unicode(BROKEN)
    assert not is_unicode("\ud83d alone")
    assert printable(BROKEN) == "caf\\udce9"
    assert printable("café") == "café"


def query(query_id: str, image_id: str, target_id: str, text: str = "with a hat", gain: float = 1) -> RawComposedQuery:
    return RawComposedQuery(query_id, image_id, text, target_id, gain)


def of_queries(*queries: RawComposedQuery, images: tuple[str, ...] = ("a", "b", "c"), **changes: Any) -> Kept:
    found = Annotations([image(name) for name in images], [], composed_queries=list(queries))
    return apply_rules(found, LENIENT.model_copy(update=changes))


def test_queries_of_a_picture_and_a_text_are_kept_in_their_order_with_their_gains() -> None:
    kept = of_queries(
        query("q1", "a", "b", gain=2), query("q1", "a", "c", gain=0.5), query("q0", "c", "a", " two\n hats")
    )
    assert kept.composed_queries.rows() == [
        ("q1", "a", "with a hat", "b", 2.0),
        ("q1", "a", "with a hat", "c", 0.5),
        ("q0", "c", "two hats", "a", 1.0),
    ]
    assert kept.dropped.is_empty()
    tables.conform(kept.composed_queries, tables.COMPOSED_QUERIES, "queries")


def test_a_dataset_without_such_queries_has_an_empty_table_of_them() -> None:
    kept = of_queries()
    assert kept.composed_queries.is_empty()
    tables.conform(kept.composed_queries, tables.COMPOSED_QUERIES, "queries")


@pytest.mark.parametrize("gone", [query("q", "x", "b"), query("q", "a", "x"), query("q", "x", "x")])
def test_a_pair_one_of_whose_pictures_is_not_there_is_dropped_and_names_it(gone: RawComposedQuery) -> None:
    kept = of_queries(query("q", "a", "c"), gone)
    assert kept.composed_queries["target_id"].to_list() == ["c"]
    assert kept.dropped.rows() == [("query", "q", "dropped_image", "picture 'x' was dropped, or is not there")]


def test_a_pair_whose_picture_a_rule_dropped_is_dropped_with_it() -> None:
    found = Annotations([image("a"), image("b", labels=())], [], composed_queries=[query("q", "a", "b")])
    kept = apply_rules(found, LENIENT.model_copy(update={"require_label": True}))
    assert kept.composed_queries.is_empty()
    assert drops(kept) == [("image", "b", "require_label"), ("query", "q", "dropped_image")]


@pytest.mark.parametrize("text", ["", " \n\t ", BROKEN])
def test_a_query_whose_text_says_nothing_or_is_no_utf8_is_dropped_and_listed(text: str) -> None:
    kept = of_queries(query("q", "a", "b", text), query("r", "a", "b"))
    assert kept.composed_queries["query_id"].to_list() == ["r"]
    assert kept.dropped.rows() == [("query", "q", "no_text", f"unusable text: {printable(' '.join(text.split()))!r}")]


def test_a_query_whose_id_is_no_utf8_is_dropped_and_listed_with_its_bytes() -> None:
    kept = of_queries(query(BROKEN, "a", "b"), query("r", "a", "b"))
    assert kept.composed_queries["query_id"].to_list() == ["r"]
    assert drops(kept) == [("query", printable(BROKEN), "not_utf8")]


def split_of(found: Annotations) -> dict[str, str]:
    return {image.image_id: image.split for image in found.images}


MANY = Annotations([image(f"p{n}") for n in range(4000)], [caption(f"p{n}") for n in range(4000)])


def test_splits_are_drawn_anew_in_the_shares_asked_for_and_by_seed() -> None:
    drawn = split_of(resplit(MANY, val=0.1, test=0.25, seed=0))
    counts = Counter(drawn.values())
    for split, share in (("train", 0.65), ("val", 0.1), ("test", 0.25)):
        assert abs(counts[split] / 4000 - share) < 5 * (share * (1 - share) / 4000) ** 0.5
    assert drawn == split_of(resplit(MANY, val=0.1, test=0.25, seed=0))
    other = split_of(resplit(MANY, val=0.1, test=0.25, seed=1))
    assert 0.3 < sum(drawn[own] != other[own] for own in drawn) / 4000 < 0.7


def test_the_split_of_a_picture_does_not_depend_on_the_others_nor_on_the_split_it_had() -> None:
    whole = split_of(resplit(MANY, val=0.1, test=0.25, seed=0))
    some = Annotations([image(f"p{n}", split="val") for n in range(3000, 100, -7)], [])
    found = split_of(resplit(some, val=0.1, test=0.25, seed=0))
    assert found == {own: whole[own] for own in found}
    less = split_of(resplit(MANY, val=0.1, test=0.2, seed=0))  # a smaller test split is part of the larger one
    assert {own for own, split in less.items() if split == "test"} < {
        own for own, split in whole.items() if split == "test"
    }


def test_nothing_but_the_split_changes() -> None:
    found = resplit(MANY, val=0.0, test=0.0, seed=3)
    assert found == MANY
    labelled = Annotations(
        [RawImage("a", "a.jpg", "val", ("cat", "dog"), distractor=True)], [caption("a")], captioned=False
    )
    (one,) = resplit(labelled, val=0.0, test=0.0, seed=3).images
    assert one == RawImage("a", "a.jpg", "train", ("cat", "dog"), distractor=True)
    assert not resplit(labelled, 0.0, 0.0, 3).captioned


IDS = st.sampled_from(["a", "b", "c", "A"])
IMAGES = st.builds(
    image, IDS, st.lists(st.sampled_from(["cat", "dog", BROKEN]), max_size=2).map(tuple), st.sampled_from(SPLITS)
)
TEXTS = st.sampled_from(["a cat", "", " \n", BROKEN]) | st.text(max_size=8)
CAPTIONS = st.builds(RawCaption, IDS | st.just("nobody"), TEXTS)


@given(st.lists(IMAGES, max_size=6), st.lists(CAPTIONS, max_size=10), st.booleans(), st.booleans())
def test_every_picture_and_caption_is_kept_or_listed_and_never_both(
    images: list[RawImage], captions: list[RawCaption], require_caption: bool, require_label: bool
) -> None:
    try:
        kept = rules(images, captions, require_caption=require_caption, require_label=require_label)
    except DataError as error:
        assert "is left after filtering" in str(error)
        return
    listed = Counter(kept.dropped["kind"])
    assert len(kept.images) + listed["image"] == len(images) == kept.counts["images"]["found"]
    assert len(kept.captions) + listed["caption"] == len(captions) == kept.counts["captions"]["found"]
    assert kept.counts["images"]["kept"] == len(kept.images)
    assert kept.counts["captions"]["kept"] == len(kept.captions)


@given(st.lists(IMAGES, max_size=6), st.lists(CAPTIONS, max_size=10))
def test_what_is_kept_fits_its_tables_and_hangs_together(images: list[RawImage], captions: list[RawCaption]) -> None:
    try:
        kept = rules(images, captions)
    except DataError:
        return
    tables.conform(kept.images, tables.IMAGES, "images")
    tables.conform(kept.captions, tables.CAPTIONS, "captions")
    tables.conform(kept.dropped, tables.DROPPED, "dropped")
    assert kept.images["image_id"].is_unique().all()
    assert kept.captions["caption_id"].is_unique().all()
    assert set(kept.captions["image_id"]) <= set(kept.images["image_id"])
    assert all(text.strip() for text in kept.captions["text"])
