"""Building: what a table holds, when it is built anew, and which tables go."""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from stages import index
from tests.indexing.conftest import CAPTIONER, DATASET, MODEL, POOL
from twinlens import Searcher
from twinlens.config.load import read_params
from twinlens.config.params import IndexParams
from twinlens.core import paths, tables
from twinlens.core.errors import ExtraError, QueryError
from twinlens.core.scratch import prune as prune_scratch
from twinlens.indexing import build
from twinlens.indexing.build import prune_tables, publish
from twinlens.indexing.index import Index, WeightedVector
from twinlens.indexing.manifest import FOLDER, Manifest, list_named_keys, locate_copy, write_at_once
from twinlens.indexing.material import gather
from twinlens.indexing.scans import Scans

NAMES = (DATASET, MODEL, CAPTIONER)
LONG_AGO = time.time() - 400 * 86_400


def manifest() -> Manifest:
    return Manifest.read(paths.indexed(*NAMES))


def rewrite(path: Path, table: pl.DataFrame, schema: object) -> None:
    path.unlink()  # what DVC links to must not be written over
    tables.write_table(table, path, schema)  # type: ignore[arg-type]


@pytest.mark.usefixtures("root")
def test_an_index_holds_the_pool_in_its_order() -> None:
    held = Index(manifest())
    pool = tables.read_table(paths.grouped(DATASET) / "images.parquet", tables.GROUPS).filter("in_pool")
    assert held.ids == pool["image_id"].to_list()
    assert held.copy.told == {"dataset": DATASET, "model": MODEL, "captioner": CAPTIONER, "key": manifest().key}
    assert np.array_equal(held.space("image_vector").rows, np.load(paths.embedded(DATASET, MODEL) / "images.npy"))
    assert np.linalg.norm(held.space("caption_vector").rows, axis=1) == pytest.approx(np.ones(POOL), abs=1e-6)
    with Image.open(io.BytesIO(held.pictures([5])[0].thumbnail)) as small:
        assert (small.format, max(small.size)) == ("JPEG", 32)
    taken = [picture.image_id for picture in held.pictures([9, 2, 31])]
    assert taken == [held.ids[row] for row in (9, 2, 31)]


@pytest.mark.usefixtures("root")
def test_a_tower_that_a_model_lacks_leaves_its_column_out() -> None:
    assert Searcher(model="pixels").index.spaces == ("image_vector",)
    assert Searcher(model="words").index.spaces == ("caption_vector",)
    assert Searcher(model="apart").index.spaces == ("image_vector", "caption_vector")


@pytest.mark.usefixtures("copy")
def test_a_picture_without_captions_has_no_caption_vector_and_is_not_found_by_words() -> None:
    path = paths.embedded(DATASET, "words")
    ids = gather(DATASET, "words", CAPTIONER, read_params().models["words"]).pool["image_id"].to_list()
    for name in ("captions", "captions_generated"):
        of = tables.read_table(path / f"{name}.parquet", tables.VECTORS)
        kept = (of["image_id"] != ids[3]).to_numpy()
        np.save(path / f"{name}.npy", np.load(path / f"{name}.npy")[kept])
        rewrite(path / f"{name}.parquet", of.filter(pl.Series(kept)), tables.VECTORS)
    index.main(DATASET, "words", CAPTIONER)
    searcher = Searcher(model="words")
    assert searcher.index.space("caption_vector").absent.tolist() == [3]
    for marks in ({"like": ids[3]}, {"like": ids[1], "unlike": ids[3]}, {"like": ids[3], "mode": "exemplar"}):
        with pytest.raises(QueryError, match=f"'{ids[3]}' has no vector to learn from .*words searches by captions"):
            searcher.search(**marks)  # type: ignore[arg-type]
    found = searcher.search("a car", k=POOL)
    assert {hit.image_id for hit in found.hits} == set(ids) - {ids[3]}


@pytest.mark.usefixtures("copy")
def test_generated_captions_stand_in_where_there_are_no_human_ones() -> None:
    folder = paths.embedded(DATASET, "words")
    for name in ("captions.npy", "captions.parquet"):
        (folder / name).unlink()
    material = gather(DATASET, "words", CAPTIONER, read_params().models["words"])
    assert material.caption_vectors is not None
    assert material.caption_vectors[0:POOL] == pytest.approx(np.load(folder / "captions_generated.npy"), abs=1e-6)


@pytest.mark.usefixtures("copy")
def test_an_unchanged_index_is_not_built_again_and_a_changed_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before, content = manifest(), paths.indexed(*NAMES).read_bytes()
    written: list[Path] = []
    write = build.write_table

    def counted(*arguments: Any) -> None:
        written.append(arguments[3])
        write(*arguments)

    monkeypatch.setattr(build, "write_table", counted)
    paths.indexed(*NAMES).unlink()  # as DVC does before it runs a stage
    index.main(*NAMES)
    assert written == []
    assert paths.indexed(*NAMES).read_bytes() == content

    generated = paths.captioned(DATASET, CAPTIONER) / "captions.parquet"
    texts = tables.read_table(generated, tables.GENERATED)
    rewrite(generated, texts.with_columns(text=pl.lit("zeppelin")), tables.GENERATED)
    index.main(*NAMES)
    assert len(written) == 1
    assert manifest().key != before.key
    assert len(Searcher().search("zeppelin", mode="text").hits) == 10
    assert (before.folder / FOLDER).exists()  # whoever has it open goes on


@pytest.mark.usefixtures("copy")
def test_the_key_follows_vectors_and_settings() -> None:
    def key(**settings: object) -> str:
        wanted = params.index.model_copy(update=settings)
        return publish(*NAMES, params.models[MODEL], wanted, threads=1).key

    params = read_params()
    keys = {key(), key(thumbnail_px=48), key(vector_index="ivf")}
    vectors = paths.embedded(DATASET, MODEL) / "images.npy"
    rows = np.load(vectors)
    vectors.unlink()
    np.save(vectors, np.roll(rows, 1, axis=1))
    keys |= {key()}
    assert len(keys) == 4
    assert key() in keys


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize("kind", ["ivf", "hnsw", "ivf_rq"])
def test_an_approximate_index_is_made_from_the_stated_size_up_and_scores_exactly(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = read_params()
    search = params.search
    small = publish(*NAMES, params.models[MODEL], IndexParams(thumbnail_px=32, vector_index=kind, from_rows=256), 1)  # type: ignore[arg-type]
    assert not small.approximate  # a pool of 60
    vector = np.load(paths.embedded(DATASET, MODEL) / "images.npy")[7]
    exact, exact_scores = Index(small).nearest([WeightedVector("image_vector", vector)], 10, [7], search)
    chosen = IndexParams.model_construct(thumbnail_px=32, vector_index=kind, from_rows=POOL, precision="float32")
    monkeypatch.setattr(IndexParams, "model_validate", lambda _: chosen)
    found = Index(publish(*NAMES, params.models[MODEL], chosen, 1))
    assert {column for index in found.table.list_indices() for column in index.columns} == {
        "image_vector",
        "caption_vector",
    }
    assert found.table.search().to_arrow()["row"].to_pylist() == list(range(POOL))
    monkeypatch.delattr(Scans, "products")  # nothing is scanned
    rows, scores = found.nearest([WeightedVector("image_vector", vector)], 10, [7], search)
    assert len(set(rows.tolist()) & set(exact.tolist())) >= 5
    of = dict(zip(exact.tolist(), exact_scores.tolist(), strict=True))
    assert [of[row] for row in rows.tolist() if row in of] == [
        score for row, score in zip(rows.tolist(), scores.tolist(), strict=True) if row in of
    ]


@pytest.mark.usefixtures("copy")
def test_without_lancedb_an_exact_index_is_built_and_searched_and_an_approximate_one_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = read_params()
    monkeypatch.setitem(sys.modules, "lancedb", None)
    made = publish(*NAMES, params.models[MODEL], IndexParams(thumbnail_px=40, vector_index="exact", from_rows=256), 1)
    assert len(Searcher().search("a red car", mode="hybrid", k=5).hits) == 5
    assert Index(made).manifest.key == manifest().key
    chosen = IndexParams.model_construct(thumbnail_px=32, vector_index="ivf", from_rows=POOL)
    monkeypatch.setattr(IndexParams, "model_validate", lambda _: chosen)
    with pytest.raises(ExtraError, match=r"needs the library 'lancedb'.*: pip install 'twinlens\[ann\]'"):
        publish(*NAMES, params.models[MODEL], chosen, 1)


@pytest.mark.usefixtures("copy")
def test_tables_that_no_manifest_names_go_when_unused_and_named_ones_stay() -> None:
    named = manifest().folder
    idle, fresh = paths.index_tables() / "00", paths.index_tables() / "11"
    for folder in (idle, fresh):
        (folder / FOLDER).mkdir(parents=True)
    for folder in (idle, named):
        os.utime(folder, (LONG_AGO, LONG_AGO))
    prune_scratch()  # what other stages call knows no manifests
    assert idle.exists()
    assert prune_tables() == [idle]
    assert named.exists()
    assert fresh.exists()
    shutil.rmtree(paths.DATA / "indexed")
    shutil.rmtree(locate_copy(*NAMES).parents[1])
    assert list_named_keys() == set()
    broken = locate_copy(*NAMES)
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    broken.with_name(f".part-1-{broken.name}").write_text('{"key')
    broken.with_name("gone.json").symlink_to("nowhere")  # listed, and gone when it is read
    assert list_named_keys() == set()
    assert named in prune_tables()


def test_threads_that_write_one_file_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: set[Path] = set()
    replace = Path.replace

    def noted(self: Path, target: Path) -> Path:
        parts.add(self)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda text: write_at_once(tmp_path / "a.json", text), "abcdefgh"))
    assert len(parts) == 8
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.usefixtures("copy")
def test_the_code_that_makes_the_table_is_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = manifest().key
    assert publish(*NAMES, read_params().models[MODEL], read_params().index, threads=1).key == before
    monkeypatch.setattr("twinlens.indexing.build.code_digest", lambda *_: "other code")
    assert publish(*NAMES, read_params().models[MODEL], read_params().index, threads=1).key != before
