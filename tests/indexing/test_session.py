"""What stays open: the old index answers while a new one is built; changed parameters hold from the next query on."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stages import index
from tests.indexing.conftest import CAPTIONER, DATASET, MODEL
from twinlens import Searcher, search
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.errors import QueryError
from twinlens.indexing import session
from twinlens.indexing.session import AWAY, SearcherCache, read_file_stamp

NAMES = (DATASET, MODEL, CAPTIONER)
TEXT = "a red car in the snow"


def change_params(before: str, after: str) -> None:
    text = Path("params.yaml").read_text()
    assert before in text
    Path("params.yaml").write_text(text.replace(before, after))


def embed_otherwise() -> None:
    """What `embed` leaves in the end: other vectors, whose index is not built yet."""
    vectors = paths.embedded(DATASET, MODEL) / "images.npy"
    rows = np.load(vectors)
    vectors.unlink()
    np.save(vectors, np.roll(rows, 1, axis=0))


@pytest.mark.usefixtures("copy")
def test_an_open_index_answers_while_its_manifest_is_away_and_says_so() -> None:
    before = search(TEXT)
    embed_otherwise()
    paths.indexed(*NAMES).unlink()  # DVC removes a stage's output before it runs the stage
    with pytest.raises(QueryError, match="other vectors"):
        Searcher()
    found = search(TEXT)
    assert (found.hits, found.notes) == (before.hits, (AWAY,))
    index.main(*NAMES)
    after = search(TEXT)
    assert [hit.score for hit in after.hits] == pytest.approx([hit.score for hit in before.hits])
    assert after.hits[0].image_id != before.hits[0].image_id
    assert after.notes == ()


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize("changed", ["manifest", "parameters"])
def test_an_open_index_answers_until_what_changed_can_be_opened(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "TRIED_AGAIN_S", 0.0)
    before = search(TEXT, mode="hybrid")
    vectors = paths.embedded(DATASET, MODEL) / "images.npy"
    shutil.copy(vectors, "kept.npy")
    embed_otherwise()
    if changed == "manifest":
        shutil.copy(paths.indexed(*NAMES), "again.json")
        Path("again.json").replace(paths.indexed(*NAMES))
    else:
        change_params("rrf_constant: 60", "rrf_constant: 1")
    for _ in range(2):  # it goes on trying
        found = search(TEXT, mode="hybrid")
        assert found.hits == before.hits
        assert len(found.notes) == 1
        assert found.notes[0].startswith(
            "the index that was opened before answers, as it was then: the index of scenes"
        )
    Path("kept.npy").replace(vectors)
    after = search(TEXT, mode="hybrid")
    assert after.notes == ()
    assert (after.hits == before.hits) == (changed == "manifest")


@pytest.mark.usefixtures("copy")
def test_what_was_never_open_is_refused_while_it_is_built() -> None:
    search(TEXT)
    paths.indexed(DATASET, "apart", CAPTIONER).unlink()
    shutil.rmtree(paths.index_tables() / "published")
    with pytest.raises(QueryError, match="there is no index of scenes with apart"):
        search(TEXT, model="apart")


@pytest.mark.usefixtures("copy")
def test_changed_parameters_alone_hold_from_the_next_query_on_and_leave_the_model_in_memory() -> None:
    params, ours = read_params(), SearcherCache()
    first, notes = ours.searcher(params, *NAMES)
    assert notes == ()
    Path("params.yaml").touch()
    assert ours.searcher(read_params(), *NAMES)[0] is first  # they are the same
    before = search(TEXT, mode="hybrid").hits[0].score
    shutil.rmtree(paths.trained(DATASET, MODEL))  # `train` makes it anew
    change_params("rrf_constant: 60", "rrf_constant: 1")
    assert search(TEXT, mode="hybrid").hits[0].score > 10 * before
    second, notes = ours.searcher(read_params(), *NAMES)
    assert (second is not first, second.towers is first.towers, notes) == (True, True, ())


@pytest.mark.usefixtures("copy")
def test_a_card_of_other_weights_or_another_device_gets_a_model_of_its_own() -> None:
    params, ours = read_params(), SearcherCache()
    first, _ = ours.searcher(params, *NAMES)
    elsewhere = params.model_copy(update={"compute": params.compute.model_copy(update={"device": "cpu:0"})})
    second, _ = ours.searcher(elsewhere, *NAMES)
    assert second.towers is not first.towers
    card = params.models[MODEL]
    assert card.joint is not None
    other = card.model_copy(update={"joint": card.joint.model_copy(update={"pretrained": "other"})})
    third, _ = ours.searcher(elsewhere.model_copy(update={"models": {**params.models, MODEL: other}}), *NAMES)
    assert third.towers is not second.towers


@pytest.mark.usefixtures("root")
def test_many_threads_open_an_index_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []

    def counted(*arguments: object) -> Searcher:
        opened.append(arguments)
        return Searcher(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "Searcher", counted)
    ours, params = SearcherCache(), read_params()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: ours.searcher(params, *NAMES)[0], range(16)))
    assert len(opened) == len(set(map(id, found))) == 1


@pytest.mark.usefixtures("root")
def test_those_not_asked_for_longest_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "KEPT_OPEN", 2)
    ours, params = SearcherCache(), read_params()
    first = {model: ours.searcher(params, DATASET, model, CAPTIONER)[0] for model in (MODEL, "apart")}
    assert ours.searcher(params, *NAMES)[0] is first[MODEL]
    ours.searcher(params, DATASET, "pixels", CAPTIONER)
    assert ours.searcher(params, *NAMES)[0] is first[MODEL]
    assert ours.searcher(params, DATASET, "apart", CAPTIONER)[0] is not first["apart"]


def test_a_file_has_a_stamp_that_changes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert read_file_stamp(path) is None
    path.write_text("x")
    before = read_file_stamp(path)
    os.utime(path, (1, 1))
    assert None not in (before, read_file_stamp(path))
    assert read_file_stamp(path) != before
    assert read_file_stamp(path / "inside") is None  # no folder
