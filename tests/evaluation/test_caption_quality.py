"""Whether captions name the labelled objects."""

from __future__ import annotations

import polars as pl
import pytest

from twinlens.evaluation.caption_quality import find_named_labels, measure_captions

LABELS = ["bus", "car", "hot dog", "dog", "umbrella"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red car and a bus", {"car", "bus"}),
        ("two cars, three buses", {"car", "bus"}),
        ("A Hot Dog!", {"hot dog", "dog"}),
        ("hot weather for a dog", {"dog"}),
        ("a carpet and a busy street", set()),
        ("", set()),
    ],
)
def test_labels_are_found_as_whole_words(text: str, expected: set[str]) -> None:
    assert find_named_labels(text, LABELS) == expected


def test_figures_by_hand() -> None:
    generated = pl.DataFrame({"image_id": ["a", "b", "c", "d"], "text": ["a car and a bus", "a car", "", "a dog"]})
    images = pl.DataFrame({"image_id": ["a", "b", "c", "d"], "labels": [["bus", "car"], ["bus", "car"], ["dog"], []]})
    figures = measure_captions(generated, images)
    assert figures["captions"] == 4
    assert figures["empty"] == 1
    assert figures["names_exactly"] == pytest.approx(1 / 3, abs=1e-6)  # the picture without a label does not count
    assert figures["label_recall"] == pytest.approx((1 + 0.5 + 0) / 3, abs=1e-6)
    assert figures["label_precision"] == pytest.approx((1 + 1 + 0) / 3, abs=1e-6)


def test_no_captions_have_no_figures() -> None:
    empty = pl.DataFrame({"image_id": [], "text": []}, schema={"image_id": pl.String, "text": pl.String})
    assert measure_captions(empty, pl.DataFrame({"image_id": ["a"], "labels": [["car"]]})) == {"captions": 0}
