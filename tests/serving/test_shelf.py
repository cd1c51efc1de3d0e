"""Which indexes there are, and which one answers while another is being built."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tests.indexing.conftest import CAPTIONER, DATASET, MODEL
from tests.serving.conftest import MODELS
from twinlens import paths
from twinlens.errors import QueryError
from twinlens.indexing.manifest import published
from twinlens.params import read_params
from twinlens.serving.shelf import Name, Shelf

NAME = Name(MODEL, CAPTIONER)


def manifest() -> Path:
    return paths.indexed(DATASET, MODEL, CAPTIONER)


@pytest.mark.usefixtures("root")
def test_the_indexes_on_disk_are_listed() -> None:
    shelf = Shelf(read_params())
    assert shelf.names() == sorted(Name(model, CAPTIONER) for model in MODELS)
    assert shelf.find(NAME.key) == NAME
    assert shelf.first() == NAME
    assert shelf.first("words").model == "words"
    assert shelf.label(NAME) == MODEL
    assert shelf.label(Name(MODEL, "blip-base")) == f"{MODEL}, captions by blip-base"


@pytest.mark.usefixtures("root")
def test_what_is_not_there_is_refused_with_what_builds_it() -> None:
    shelf = Shelf(read_params())
    with pytest.raises(QueryError, match=f"did you mean '{NAME.key}'"):
        shelf.find(f"{MODEL}/gitt")
    with pytest.raises(QueryError, match="dvc exp run -S model=vit-b-32 index"):
        shelf.first("vit-b-32")
    with pytest.raises(QueryError, match="no such one as 'nothing'"):
        shelf.first("nothing")
    with pytest.raises(QueryError, match="no such one as 'nothing'"):
        Shelf(read_params(), "nothing")


@pytest.mark.usefixtures("root")
def test_an_index_is_opened_once() -> None:
    shelf = Shelf(read_params())
    assert shelf.searcher(NAME) is shelf.searcher(NAME)


@pytest.mark.usefixtures("copy")
def test_the_old_index_answers_until_a_new_one_can(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf(read_params())
    before, text = shelf.searcher(NAME), manifest().read_text(encoding="utf-8")
    manifest().unlink()  # as DVC does before the stage runs
    assert shelf.searcher(NAME) is before
    assert NAME in shelf.names()  # by its published copy
    assert published(DATASET, MODEL, CAPTIONER).exists()

    others = json.loads(text) | {"vectors": {"images.npy": "0" * 64}}
    manifest().write_text(json.dumps(others), encoding="utf-8")
    with caplog.at_level(logging.WARNING, "twinlens"):
        assert shelf.searcher(NAME) is before
        assert shelf.searcher(NAME) is before
    assert len([record for record in caplog.records if "the old one answers" in record.message]) == 1

    manifest().unlink()
    manifest().write_text(text, encoding="utf-8")
    after = shelf.searcher(NAME)
    assert after is not before
    assert after.search("boat").hits == before.search("boat").hits
