"""cards/watched.yaml, and which places on this machine a card names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from tests.workspace import ROOT
from twinlens.config.datasets import DatasetCard, list_places
from twinlens.config.watched import add_watched, read_watched
from twinlens.core.errors import ParamsError


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    (tmp_path / "watched.yaml").write_bytes((ROOT / "cards/watched.yaml").read_bytes())
    return tmp_path


def test_nothing_is_watched_until_it_is_entered_and_comments_stay(cards: Path) -> None:
    assert read_watched(cards) == []
    before = (cards / "watched.yaml").read_text(encoding="utf-8")
    add_watched("mine", cards)
    add_watched("yours", cards)
    add_watched("mine", cards)
    assert read_watched(cards, {"mine", "yours"}) == ["mine", "yours"]
    assert (cards / "watched.yaml").read_text(encoding="utf-8").startswith(before.partition("watched:")[0])


@pytest.mark.parametrize("content", ["", "watched: mine\n", "watched: [1]\n", "- mine\n", "watched: []\nmore: 1\n"])
def test_what_is_no_list_of_names_is_refused(content: str, cards: Path) -> None:
    (cards / "watched.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ParamsError, match="should hold `watched:` and a list"):
        read_watched(cards)


def test_a_name_without_a_card_and_a_missing_file_are_told(cards: Path) -> None:
    add_watched("gone", cards)
    with pytest.raises(ParamsError, match="'gone' has no card"):
        read_watched(cards, {"mine"})
    (cards / "watched.yaml").unlink()
    with pytest.raises(ParamsError, match=r"write `watched: \[\]`"):
        read_watched(cards)


FOLDER = {"adapter": "folder", "images": "~/photos", "table": "~/t.csv", "columns": {"file": "f"}}
SHARDS = {"adapter": "webdataset", "source": "/data/shards", "shards": {"test": "*.tar"}}


@pytest.mark.parametrize(
    ("card", "places"),
    [
        (FOLDER, ["~/photos", "~/t.csv"]),
        (SHARDS | {"keep": {"from_qrels": "/data/q.csv"}}, ["/data/shards", "/data/q.csv"]),
        ({"adapter": "composed", "queries": FOLDER, "distractors": SHARDS}, ["~/photos", "~/t.csv", "/data/shards"]),
        ({"adapter": "coco", "parts": ["val2017"]}, []),
        ({"adapter": "coco", "parts": ["val2017"], "source": "https://mirror/coco"}, []),
        (yaml.safe_load((ROOT / "cards/datasets/scenes.yaml").read_text(encoding="utf-8")), []),
    ],
)
def test_the_places_of_a_card_are_those_on_this_machine(card: dict[str, Any], places: list[str]) -> None:
    assert list_places(TypeAdapter(DatasetCard).validate_python(card)) == places
