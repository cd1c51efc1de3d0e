"""Which indexes there are, and which one answers while another is being built."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tests.apps.web.conftest import MODELS
from tests.indexing.conftest import CAPTIONER, DATASET, MODEL
from twinlens import Searcher
from twinlens.apps.web.shelf import IndexName, Shelf
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.errors import QueryError
from twinlens.indexing.manifest import locate_copy
from twinlens.indexing.session import TRIED_AGAIN_S

NAME = IndexName(MODEL, CAPTIONER)


def manifest() -> Path:
    return paths.indexed(DATASET, MODEL, CAPTIONER)


@pytest.mark.usefixtures("root")
def test_the_indexes_on_disk_are_listed() -> None:
    shelf = Shelf(read_params())
    assert shelf.names() == sorted(IndexName(model, CAPTIONER) for model in MODELS)
    assert shelf.find(NAME.key) == NAME
    assert shelf.first() == NAME
    assert shelf.first("words").model == "words"
    assert shelf.label(NAME) == MODEL
    assert shelf.label(IndexName(MODEL, "blip-base")) == f"{MODEL}, captions by blip-base"


@pytest.mark.usefixtures("root")
def test_what_is_not_there_is_refused_with_what_builds_it() -> None:
    shelf = Shelf(read_params())
    with pytest.raises(QueryError, match=f"did you mean '{NAME.key}'"):
        shelf.find(f"{MODEL}/gitt")
    with pytest.raises(QueryError, match="dvc exp run -S model=vit-b-32 index"):
        shelf.first("vit-b-32")
    with pytest.raises(QueryError, match="there is no model 'nothing'"):
        shelf.first("nothing")
    with pytest.raises(QueryError, match="there is no dataset 'nothing'"):
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
    assert locate_copy(DATASET, MODEL, CAPTIONER).exists()

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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes when a test says so."""
    now = [100.0]
    monkeypatch.setattr("twinlens.indexing.session.time.monotonic", lambda: now[0])
    return now


def touch() -> None:
    """Another manifest with the same text."""
    text = manifest().read_text(encoding="utf-8")
    manifest().unlink()
    manifest().write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("copy")
def test_an_index_whose_vectors_come_after_its_manifest_is_opened_once_they_are_there(clock: list[float]) -> None:
    shelf = Shelf(read_params())
    before = shelf.searcher(NAME)
    vectors = paths.embedded(DATASET, MODEL) / "images.npy"
    raw = vectors.read_bytes()
    vectors.unlink()  # a copy of its own, not the bytes that others share
    vectors.write_bytes(raw[:-1] + b"x")
    touch()
    assert shelf.searcher(NAME) is before
    vectors.write_bytes(raw)
    clock[0] += TRIED_AGAIN_S - 1
    assert shelf.searcher(NAME) is before
    clock[0] += 2
    after = shelf.searcher(NAME)
    assert after is not before
    clock[0] += 100
    assert shelf.searcher(NAME) is after


@pytest.mark.usefixtures("copy")
def test_the_old_index_answers_while_files_are_being_replaced(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf(read_params())
    before = shelf.searcher(NAME)

    def vanished(*_: object) -> None:
        raise FileNotFoundError("images.npy")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "twinlens"):
        patch.setattr("twinlens.indexing.session.Searcher", vanished)
        touch()
        for _ in range(3):
            assert shelf.searcher(NAME) is before
            clock[0] += TRIED_AGAIN_S + 1
        with pytest.raises(QueryError, match=r"cannot be opened: images\.npy; try again"):
            Shelf(read_params()).searcher(NAME)
        patch.setattr(Path, "stat", vanished)
        assert shelf.searcher(NAME) is before
    assert len([record for record in caplog.records if "the old one answers" in record.message]) == 1
    assert shelf.searcher(NAME) is not before


@pytest.mark.usefixtures("copy")
def test_nobody_waits_for_an_index_that_is_being_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(read_params())
    before, asked = shelf.searcher(NAME), []

    def slow(*names: object) -> Searcher:
        asked.append(shelf.searcher(NAME))  # as another thread would
        return Searcher(*names)  # type: ignore[arg-type]

    monkeypatch.setattr("twinlens.indexing.session.Searcher", slow)
    touch()
    assert shelf.searcher(NAME) is not before
    assert asked == [before]
