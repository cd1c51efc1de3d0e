"""Opening: which index answers, and why one may not."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from stages import index
from tests.indexing.conftest import CAPTIONER, DATASET, MODEL
from tests.workspace import change
from twinlens import Searcher, search
from twinlens.config.load import read_params
from twinlens.config.vector_forms import VectorForm
from twinlens.core import paths
from twinlens.core.errors import DataError, QueryError
from twinlens.core.scratch import Scratch
from twinlens.indexing.manifest import FOLDER, TOWERS, Manifest, list_vector_files, locate_copy
from twinlens.indexing.open import can_answer, list_indexes

NAMES = (DATASET, MODEL, CAPTIONER)
TEXT = "a red car in the snow"


def manifest() -> Manifest:
    return Manifest.read(paths.indexed(*NAMES))


def manifest_of_copy() -> Manifest:
    """The one that DVC does not know of."""
    return Manifest.read(locate_copy(*NAMES))


def forget() -> None:
    shutil.rmtree(locate_copy(*NAMES).parents[2])


@pytest.mark.usefixtures("copy")
def test_a_missing_index_is_named_with_the_command_that_builds_it() -> None:
    paths.indexed(*NAMES).unlink()
    forget()
    with pytest.raises(QueryError, match=r"no index of scenes with clip-scenes and captions by git: `dvc repro index`"):
        search(TEXT)
    with pytest.raises(QueryError, match=r"`dvc exp run -S model=vit-b-32 -S captioner=none index`"):
        search(TEXT, model="vit-b-32", captioner="none")


@pytest.mark.usefixtures("root")
def test_beside_a_missing_index_those_are_named_that_can_answer() -> None:
    there = list_indexes(read_params())
    assert NAMES in there
    assert there == list_indexes(read_params(), DATASET)
    assert list_indexes(read_params(), "coco") == []
    with pytest.raises(QueryError) as error:
        search(TEXT, model="vit-b-32")
    asked = [f"--dataset {dataset} --model {model} --captioner {captioner}" for dataset, model, captioner in there]
    told, _, more = (
        str(error.value).partition("index` makes it, and what it needs; what can answer here: ")[2].partition(", and ")
    )
    assert told.split(", or ") == asked[:3]
    assert more == f"{len(asked) - 3} more"


@pytest.mark.usefixtures("root")
def test_a_misspelt_model_is_answered_with_the_nearest() -> None:
    with pytest.raises(QueryError, match="did you mean 'clip-scenes'"):
        Searcher(model="clip-scnes")


@pytest.mark.usefixtures("copy")
def test_an_index_of_other_vectors_than_are_here_is_refused() -> None:
    vectors = paths.embedded(DATASET, MODEL) / "images.npy"
    rows = np.load(vectors)
    vectors.unlink()
    np.save(vectors, np.roll(rows, 1, axis=0))
    with pytest.raises(QueryError, match=r"other vectors than now lie in .*images\.npy.*`dvc repro index` builds"):
        search(TEXT)
    index.main(*NAMES)
    assert search(TEXT).hits


@pytest.mark.usefixtures("copy")
def test_an_index_of_another_model_under_the_same_name_is_refused_before_it_embeds_a_query() -> None:
    weights = manifest().towers / "weights" / "open_clip_config.json"
    content = weights.read_text()
    weights.unlink()
    weights.write_text(content + " ")
    with pytest.raises(QueryError, match=r"other weights of clip-scenes than are here now: `dvc repro index`"):
        search(TEXT)
    assert search("car", mode="text").hits  # words need no model


@pytest.mark.usefixtures("copy")
def test_a_manifest_without_its_table_has_it_built_from_the_vectors_that_came_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = search(TEXT).hits
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "elsewhere"))
    with caplog.at_level(logging.INFO, "twinlens"):
        assert Searcher().search(TEXT).hits == before
    assert "was built on another machine" in caplog.text
    caplog.clear()
    Searcher()
    assert caplog.text == ""


@pytest.mark.usefixtures("copy")
def test_a_table_that_cannot_be_built_here_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.rmtree(paths.filtered(DATASET))
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=r"table is not on this machine.*`dvc pull` fetches it"):
        Searcher()


@pytest.mark.usefixtures("copy")
def test_a_manifest_that_is_removed_before_it_is_read_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Manifest.read

    def removed(path: Path) -> Manifest:
        path.unlink(missing_ok=True)
        return read(path)

    monkeypatch.setattr(Manifest, "read", removed)
    with pytest.raises(QueryError, match="there is no index of scenes with clip-scenes"):
        Searcher()


@pytest.mark.usefixtures("copy")
def test_vectors_that_are_removed_before_they_are_compared_are_being_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def removed(dataset: str, model: str, form: VectorForm) -> list[Path]:
        files = list_vector_files(dataset, model, form)
        files[0].unlink()
        return files

    monkeypatch.setattr("twinlens.indexing.open.list_vector_files", removed)
    with pytest.raises(QueryError, match=r"are being made anew, and .*images.npy is gone .*`dvc repro index`"):
        Searcher()


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize("fault", ["missing", "cut", "bit"])
def test_a_table_that_is_not_as_it_was_written_is_built_again(fault: str) -> None:
    before = Searcher().search(TEXT).hits
    folder = Manifest.read(paths.indexed(*NAMES)).folder
    for file in (folder / FOLDER / "pictures.arrow", folder / FOLDER / "image_vector.npy"):
        raw = bytearray(file.read_bytes())
        raw[-8] ^= 1
        file.unlink()
        if fault != "missing":
            file.write_bytes(bytes(raw[:-100] if fault == "cut" else raw))
    assert Searcher().search(TEXT).hits == before
    assert Scratch("index", folder.name).has(FOLDER)


@pytest.mark.usefixtures("copy")
def test_while_an_index_is_built_anew_the_old_one_answers() -> None:
    before = search(TEXT).hits
    opened = Searcher()
    paths.indexed(*NAMES).unlink()  # DVC removes a stage's output before it runs the stage
    assert Searcher().search(TEXT).hits == before
    shutil.rmtree(paths.embedded(DATASET, MODEL))  # and those of the stages before it
    assert Searcher().search(TEXT).hits == before
    assert opened.search(TEXT).hits == before


@pytest.mark.usefixtures("copy")
def test_a_build_that_is_killed_leaves_nothing_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Manifest.read(paths.indexed(*NAMES)).key
    shutil.rmtree(paths.index_tables() / key)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("twinlens.indexing.build._batches", lambda *_: dies())
        with pytest.raises(KeyboardInterrupt):
            index.main(*NAMES)
    assert not (paths.index_tables() / key / FOLDER).exists()
    assert search(TEXT).hits


@pytest.mark.usefixtures("copy")
def test_a_new_index_is_opened_by_the_next_call() -> None:
    first = search(TEXT).hits[0].image_id
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("thumbnail_px: 32", "thumbnail_px: 40"))
    before = len(search(TEXT).hits[0].thumbnail)
    index.main(*NAMES)
    after = search(TEXT).hits[0]
    assert after.image_id == first
    assert len(after.thumbnail) > before


@pytest.mark.usefixtures("copy")
def test_a_manifest_that_is_none_is_refused() -> None:
    paths.indexed(*NAMES).unlink()
    paths.indexed(*NAMES).write_text("{}")
    with pytest.raises(DataError, match=r"no manifest of an index .*`dvc repro -f index`"):
        Searcher()


@pytest.mark.usefixtures("copy")
def test_an_index_keeps_what_embeds_its_queries_whatever_dvc_takes_out_of_the_workspace() -> None:
    picture = Searcher().picture(Searcher().index.ids[3]).thumbnail
    before = [Searcher().search(TEXT).hits, Searcher().search(image=picture).hits]
    for folder in (paths.trained, paths.embedded):
        shutil.rmtree(folder(DATASET, MODEL))
    paths.indexed(*NAMES).unlink()  # as `dvc exp run -S model=...` may leave it
    assert [Searcher().search(TEXT).hits, Searcher().search(image=picture).hits] == before
    assert can_answer(*NAMES)
    assert sorted(path.name for path in manifest_of_copy().towers.iterdir()) == ["weights", "weights.json"]


@pytest.mark.usefixtures("copy")
def test_an_index_that_dvc_restored_stays_once_it_was_opened() -> None:
    forget()  # nothing but DVC's own files, as after `dvc pull`
    shutil.rmtree(manifest().folder)
    before = search(TEXT).hits
    assert manifest_of_copy() == manifest()
    for folder in (paths.trained, paths.embedded):
        shutil.rmtree(folder(DATASET, MODEL))
    paths.indexed(*NAMES).unlink()
    assert search(TEXT).hits == before


@pytest.mark.usefixtures("copy")
def test_an_index_that_dvc_restored_with_other_weights_is_not_kept() -> None:
    forget()
    shutil.rmtree(manifest().folder)
    weights = paths.trained(DATASET, MODEL) / "weights" / "open_clip_config.json"
    content = weights.read_text()
    weights.unlink()
    weights.write_text(content + " ")
    assert search("car", mode="text").hits
    assert not locate_copy(*NAMES).exists()


@pytest.mark.usefixtures("copy")
def test_weights_that_are_gone_are_named_with_what_brings_them_back() -> None:
    shutil.rmtree(paths.trained(DATASET, MODEL))
    shutil.rmtree(manifest_of_copy().towers)  # an index of before they were kept
    change(Path(), {"model": "words"})
    with pytest.raises(
        QueryError, match=r"not here .*: `dvc exp run -S model=clip-scenes index` makes or restores them"
    ):
        Searcher(model=MODEL).search(TEXT)
    assert Searcher(model=MODEL).search("car", mode="text").hits
    assert not can_answer(*NAMES)


@pytest.mark.usefixtures("copy")
def test_an_index_can_answer_where_its_table_is_or_can_be_built() -> None:
    assert can_answer(*NAMES)
    assert not can_answer(DATASET, "vit-b-32", CAPTIONER)
    shutil.rmtree(manifest().folder)
    assert can_answer(*NAMES)  # it is built when it is opened
    (paths.embedded(DATASET, MODEL) / "images.npy").unlink()
    assert not can_answer(*NAMES)
    paths.indexed(*NAMES).write_text("{}")
    assert not can_answer(*NAMES)


@pytest.mark.usefixtures("copy")
def test_an_index_of_before_weights_were_kept_gets_them_by_being_published_again() -> None:
    shutil.rmtree(manifest().folder / TOWERS)
    index.main(*NAMES)
    kept, made = manifest().folder / TOWERS / "weights", paths.trained(DATASET, MODEL) / "weights"
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == {p.name: p.read_bytes() for p in made.iterdir()}
    assert all((kept / path.name).samefile(path) for path in made.iterdir())  # no disk is taken


@pytest.mark.usefixtures("copy")
def test_a_checkout_that_may_only_be_read_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(30, "Read-only file system")

    for memory in (paths.scratch() / "digests").glob("*.json"):
        memory.unlink()
    monkeypatch.setattr("os.utime", refuse)
    monkeypatch.setattr("twinlens.core.hashing.LARGE", 0)
    monkeypatch.setattr(Path, "write_text", refuse)
    assert Searcher().search(TEXT).hits
