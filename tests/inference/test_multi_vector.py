"""Token matrices as a job makes them: the library's, in parts, in roles, with their mean beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sentence_transformers import MultiVectorEncoder

from tests.models.encoders.test_multi_vector import card
from tests.models.encoders.test_multimodal import JPEGS, decoded
from tests.tiny import CPU, TEXTS, write_shards
from tests.token_models import DIM, EXPANDED, save_colbert, save_colqwen
from twinlens.config.models import ModelCard
from twinlens.config.params import ComputeParams
from twinlens.config.sentence_models import MultiVectorTower
from twinlens.core.costs import Cost
from twinlens.core.errors import DataError, ParamsError
from twinlens.core.probes import Probe
from twinlens.core.token_matrices import TokenMatrices, join_matrices, read_token_matrices, refuse_useless
from twinlens.core.vectors import read_vectors
from twinlens.inference import loop
from twinlens.inference.conformity import KINDS, inspect_tower
from twinlens.inference.embed import Embedder
from twinlens.inference.jobs import make_job
from twinlens.inference.multi_vector import MultiVectorJob
from twinlens.models import encoders
from twinlens.models.encoders.multi_vector import TokenTexts
from twinlens.models.token_batch import TokenBatch
from twinlens.tasks.inputs import CAPTIONS, IMAGES, OTHER_WAY, Input

COMPUTE = ComputeParams(device="cpu", image_batch=2, text_batch=2, decode_threads=1)
TABLE = pl.DataFrame({"id": [f"t{n}" for n in range(5)], "image_id": [f"p{n}" for n in range(5)], "text": TEXTS})


def job(folder: Path, cost: Cost | None = None) -> MultiVectorJob:
    tower = card(folder)
    found = make_job(tower, encoders.locate(tower), CPU, COMPUTE, cost or Cost())
    assert isinstance(found, MultiVectorJob)
    return found


def read(folder: Path, name: str) -> TokenMatrices:
    return read_token_matrices(folder, {name: read_vectors(folder, name)})[name]


def furthest(found: TokenMatrices, wanted: list[Any]) -> float:
    assert [len(one) for one in wanted] == found.lengths.tolist()
    return max(
        float(np.abs(found.matrix(row).astype(np.float32) - one.numpy()).max()) for row, one in enumerate(wanted)
    )


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(loop, "PICTURES_PER_PART", 2)
    monkeypatch.setattr(loop, "TEXTS_PER_PART", 3)
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_pictures_become_the_librarys_matrices_and_their_mean(out: Path, tmp_path: Path) -> None:
    folder, cost = save_colqwen(tmp_path / "model"), Cost()
    pool = write_shards(JPEGS, tmp_path / "shards")
    job(folder, cost).in_role("item").pictures("images", tmp_path / "shards", pool, out)
    wanted = MultiVectorEncoder(str(folder), device="cpu").encode_document(decoded())
    found = read(out, "images")
    assert furthest(found, wanted) < 5e-4  # a number below one, to eleven bits
    vectors = read_vectors(out, "images")
    means = np.stack([one.numpy().mean(axis=0) for one in wanted])
    assert np.abs(vectors.rows - means / np.linalg.norm(means, axis=1, keepdims=True)).max() < 1e-3
    assert vectors.ids == pool["image_id"].to_list()
    probe = Probe.read(out / "images.probe.npz")
    cosines = (probe.alone * vectors.rows[[vectors.ids.index(name) for name in probe.ids]]).sum(axis=1)
    assert (1 - cosines).max() < probe.tolerance
    tokens = sum(map(len, wanted)) / len(wanted)
    assert cost.parts["images"]["token_vectors"] == pytest.approx(tokens)
    assert cost.parts["images"]["vector_bytes"] == round(4 * DIM + 2 * DIM * tokens)


def test_what_is_finished_is_not_computed_again_and_each_role_has_its_own(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_colbert(tmp_path)
    library = MultiVectorEncoder(str(folder), device="cpu")
    first = job(folder)
    first.in_role("query").texts("captions", TABLE, out)
    first.in_role("item").texts("captions_other", TABLE, out)
    assert furthest(read(out, "captions"), library.encode_query(TEXTS)) < 5e-4
    assert furthest(read(out, "captions_other"), library.encode_document(TEXTS)) < 5e-4
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    monkeypatch.setattr(encoders, "load", lambda *args: pytest.fail("a model was loaded"))
    again = job(folder)
    again.in_role("query").texts("captions", TABLE, out)
    again.in_role("item").texts("captions_other", TABLE, out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_a_part_that_is_missing_is_made_again_alone(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_colbert(tmp_path)
    job(folder).in_role("query").texts("captions", TABLE, out)
    before = (out / "captions.tokens.npy").read_bytes()
    parts = sorted((tmp_path / "scratch").rglob("part-*.npy"))
    assert [part.name for part in parts] == ["part-00000.npy", "part-00001.npy"]
    parts[1].unlink()
    asked: list[str] = []
    own = TokenTexts.encode_tokens

    def note(self: TokenTexts, texts: Sequence[str]) -> TokenBatch:
        asked.extend(texts)
        return own(self, texts)

    monkeypatch.setattr(TokenTexts, "encode_tokens", note)
    job(folder).in_role("query").texts("captions", TABLE, out)
    assert sorted(asked) == sorted(TEXTS[3:])
    assert (out / "captions.tokens.npy").read_bytes() == before


def test_cut_texts_are_counted(out: Path, tmp_path: Path) -> None:
    cost = Cost()
    table = TABLE.with_columns(text=pl.Series([*TEXTS[:4], "a red car in the snow " * 3]))
    job(save_colbert(tmp_path), cost).in_role("query").texts("captions", table, out)
    assert cost.parts["captions"]["truncated"] == 2
    assert cost.parts["captions"]["token_vectors"] == EXPANDED


def test_a_card_is_embedded_in_roles_and_other_ways(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_colqwen(tmp_path / "model")
    pool = write_shards(JPEGS, tmp_path / "shards")
    pictures = pool.with_columns(pl.col("image_id").alias("id"))
    inputs = [Input(IMAGES, pictures, again=(OTHER_WAY,)), Input(CAPTIONS, TABLE, again=(OTHER_WAY,))]
    embedder = Embedder(ModelCard(joint=card(folder)), tmp_path / "trained", CPU, COMPUTE, Cost())
    monkeypatch.setattr("twinlens.inference.embed.locate_weights", lambda *_: folder)
    assert embedder.embed(inputs, tmp_path / "shards", out) == 10
    names = {file.name.removesuffix(".tokens.npy") for file in out.glob("*.tokens.npy")}
    assert names == {IMAGES, IMAGES + OTHER_WAY, CAPTIONS, CAPTIONS + OTHER_WAY}


def test_a_tower_conforms_to_the_librarys_own_path(out: Path, tmp_path: Path) -> None:
    found = inspect_tower(job(save_colqwen(tmp_path / "model")), KINDS["joint"])
    assert [one.kind for one in found.comparisons] == ["pictures", "texts"]
    for one in found.comparisons:
        assert one.library == "sentence-transformers"
        assert max(one.apart) < 1e-6


def test_a_text_model_reads_no_pictures(out: Path, tmp_path: Path) -> None:
    folder = save_colbert(tmp_path)
    pool = write_shards(JPEGS, tmp_path / "shards")
    with pytest.raises(ParamsError, match="someone/tiny reads no pictures: name it as `text:` on the card"):
        job(folder).in_role("item").pictures("images", tmp_path / "shards", pool, out)


def test_matrices_that_are_of_no_use_are_refused_by_name() -> None:
    unit = np.eye(3, dtype=np.float32)
    refuse_useless(join_matrices([unit, unit[:1]]), ["a", "b"])
    with pytest.raises(DataError, match="b has 0 token vectors, wanted 1 to 16,384"):
        refuse_useless(join_matrices([unit, unit[:0]]), ["a", "b"])
    with pytest.raises(DataError, match="b has a token vector of length 2, wanted 1"):
        refuse_useless(join_matrices([unit, 2 * unit]), ["a", "b"])
    with pytest.raises(DataError, match="a has a token vector of length nan, wanted 1"):
        refuse_useless(join_matrices([np.full((1, 3), np.nan, dtype=np.float32)]), ["a"])


def test_files_that_do_not_belong_together_are_refused(out: Path, tmp_path: Path) -> None:
    folder = save_colbert(tmp_path)
    job(folder).in_role("query").texts("captions", TABLE, out)
    np.save(out / "captions.offsets.npy", np.arange(6))
    with pytest.raises(DataError, match=r"holds 60 token vectors of 5 inputs, where 5 of 5 are wanted"):
        read(out, "captions")
    (out / "captions.tokens.npy").write_bytes(b"cut")
    with pytest.raises(DataError, match="is damaged"):
        read(out, "captions")


def test_a_tower_of_another_kind_has_another_job(tmp_path: Path) -> None:
    assert MultiVectorTower.family == "multi_vector"
    assert isinstance(job(save_colbert(tmp_path)), MultiVectorJob)
