"""A dataset's card: what was found, what was taken away and why, in figures that a diff can show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from twinlens.config.datasets import BaseDatasetCard, ComposedCard, FolderCard, HubCard
from twinlens.config.load import read_params
from twinlens.datasets.statistics import describe_dataset, write_card
from twinlens.images.duplicates import Duplicates

CARD = FolderCard.model_validate({"adapter": "folder", "images": "$MINE/photos", "about": {"licence": "yours"}})
COUNTS = {
    "images": {"found": 6, "kept": 5},
    "captions": {"found": 4, "kept": 3},
    "dropped": {"caption: empty": 1, "image: unlisted": 1},
}
IMAGES = pl.DataFrame(
    {
        "image_id": list("abcde"),
        "split": ["train", "test", "test", "test", "test"],
        "labels": [["cat"], ["dog", "cat"], ["cat"], [], []],
    },
    schema_overrides={"labels": pl.List(pl.String)},
)
CAPTIONS = pl.DataFrame({"image_id": ["a", "a", "b"], "text": ["one", "one two three", "one two three four five six"]})
NOTES = pl.DataFrame(
    {
        "image_id": ["e", "a"],
        "kept": [False, True],
        "note": ["3 x 40 px: a side is under 16 px", "PNG named .jpg"],
    }
)
GROUPS = pl.DataFrame({"image_id": list("abc"), "in_pool": [False, True, True], "object_set": [None, "cat,dog", "cat"]})
NO_COPIES = Duplicates(pl.DataFrame({"kind": ["near"], "leak": [True]}), {"d"})


def described(card: BaseDatasetCard = CARD, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"counts": COUNTS, "images": IMAGES, "captions": CAPTIONS, "notes": NOTES, "groups": GROUPS}
    return describe_dataset("mine", card, copies=NO_COPIES, **(given | changes))


def test_pictures_are_counted_after_each_rule() -> None:
    assert described()["pictures"] == {
        "found": 6, "after_filter": 5, "after_resize": 4, "after_duplicates": 3, "in_pool": 2,
    }  # fmt: skip


def test_everything_that_was_taken_away_has_a_reason() -> None:
    found = described()
    assert found["dropped"] == COUNTS["dropped"]
    assert found["set_aside"] == {"N x N px: a side is under N px": 1}  # one line, whatever the sizes
    assert found["mended"] == {"PNG named .jpg": 1}
    assert found["duplicates"] == {"exact": 0, "near": 1, "leaks": 1, "dropped": 1}


def test_what_is_left_is_described() -> None:
    found = described()
    assert found["captions"] == {"found": 4, "kept": 3, "median_words": 3.0}
    assert found["splits"] == {"test": 2, "train": 1}
    assert found["categories"] == {"number": 2, "pictures_each": {"cat": 3, "dog": 1}}
    assert found["object_sets"] == 2
    assert (found["licence"], found["sources"]) == ("yours", ["$MINE/photos"])


def test_a_choice_by_classifier_is_part_of_it() -> None:
    assert described(counts=COUNTS | {"keep": {"kept": 4}})["keep"] == {"kept": 4}
    assert "keep" not in described()


def test_a_dataset_without_captions_has_no_median() -> None:
    assert described(captions=CAPTIONS[:0])["captions"]["median_words"] is None


def test_sources_name_the_hubs_commit_and_all_parts() -> None:
    params = read_params()
    vehicles = params.datasets["vehicles"]
    assert isinstance(vehicles, ComposedCard)
    assert [source.split("@")[0] for source in described(vehicles)["sources"]] == [
        "https://huggingface.co/datasets/nlphuji/flickr30k",
        "https://huggingface.co/datasets/ILSVRC/imagenet-1k",
    ]
    roco = params.datasets["roco"]
    assert isinstance(roco, HubCard)
    assert described(roco)["sources"] == [f"https://huggingface.co/datasets/{roco.repository}@{roco.revision}"]
    assert described(params.datasets["coco"])["sources"] == ["the publishers of coco"]


def test_the_file_is_the_same_for_the_same_data_and_one_line_differs_for_one_number(tmp_path: Path) -> None:
    write_card(described(), tmp_path / "one.json")
    write_card(described(), tmp_path / "two.json")
    other = COUNTS | {"images": {"found": 7, "kept": 5}}
    write_card(described(counts=other), tmp_path / "three.json")
    one, two, three = ((tmp_path / f"{name}.json").read_text() for name in ("one", "two", "three"))
    assert one == two
    assert sum(a != b for a, b in zip(one.splitlines(), three.splitlines(), strict=True)) == 1
    assert json.loads(one)["dataset"] == "mine"


@pytest.mark.parametrize("name", ["scenes"])
def test_the_card_of_the_default_is_in_git_and_holds_no_path_of_a_machine(name: str) -> None:
    text = Path(f"metrics/datasets/{name}.json").read_text(encoding="utf-8")
    assert json.loads(text)["dataset"] == name
    assert "/home" not in text
    assert "/work" not in text
