"""Pictures at their own size: batches of equal length, the library's vectors, prompts by role, and pairs with words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import simplejpeg
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from tests.multimodal import WIDTH, save_embedder
from tests.tiny import CPU, TEXTS, photo, write_shards
from twinlens.config.models import ModelCard
from twinlens.config.params import ComputeParams
from twinlens.config.sentence_models import SentenceTransformersTower
from twinlens.core.costs import Cost
from twinlens.core.errors import ParamsError
from twinlens.core.probes import Probe
from twinlens.core.vectors import read_vectors
from twinlens.inference.embed import Embedder
from twinlens.inference.loop import DeviceRoom, join_parts
from twinlens.inference.native_loop import embed_native
from twinlens.inference.tower import TowerJob
from twinlens.models import encoders
from twinlens.models.native import NativeBatch, measure_padding
from twinlens.tasks.inputs import CAPTIONS, COMPOSED_PAIRS, GENERATED, IMAGES, OTHER_WAY, Input, build_picture_input

COMPUTE = ComputeParams(device="cpu", decode_threads=2, image_batch=4, text_batch=4)
SHAPES = [(96, 64), (64, 96), (80, 80), (128, 48), (48, 48), (96, 96), (64, 64), (48, 128), (96, 48)]
FILES = [
    simplejpeg.encode_jpeg(photo(seed, *shape), quality=95, colorsubsampling="444") for seed, shape in enumerate(SHAPES)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_embedder(tmp_path_factory.mktemp("qwen"))


@pytest.fixture
def pool(tmp_path: Path) -> pl.DataFrame:
    return write_shards(FILES, tmp_path / "shards")


def card(folder: Path, **fields: Any) -> SentenceTransformersTower:
    return SentenceTransformersTower(sentence_transformers="someone/tiny", checkpoint=str(folder), **fields)


def job(folder: Path, **fields: Any) -> TowerJob:
    tower = card(folder, **fields)
    return TowerJob(tower, encoders.locate(tower), CPU, COMPUTE, Cost("cpu-float32"))


def by_library(folder: Path, inputs: list[Any], prompt: str = "") -> np.ndarray:
    return SentenceTransformer(str(folder), device="cpu").encode(inputs, prompt=prompt, show_progress_bar=False)


def decoded() -> list[Image.Image]:
    return [Image.fromarray(simplejpeg.decode_jpeg(file, colorspace="RGB")) for file in FILES]


def test_vectors_are_the_librarys_in_the_order_of_the_rows_and_kept(
    folder: Path, pool: pl.DataFrame, tmp_path: Path
) -> None:
    done = job(folder)
    done.pictures("images", tmp_path / "shards", pool, tmp_path)
    found = np.load(tmp_path / "images.npy")
    assert np.abs(found - by_library(folder, decoded())).max() < 1e-6
    assert Probe.read(tmp_path / "images.probe.npz").alone.shape[1] == WIDTH
    again = job(folder)
    again.pictures("images", tmp_path / "shards", pool, tmp_path)
    assert "loaded" not in vars(again.worker)
    assert np.array_equal(np.load(tmp_path / "images.npy"), found)


class Scripted:
    """An encoder that counts batches; vectors say which picture they are of."""

    parameters, reads_pairs, fewest_pixels = 1, False, 0
    threads: int | None = 1

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.lengths: list[list[int]] = []

    def count_tokens(self, sizes: Any) -> np.ndarray:
        return np.array([height * width // 256 for height, width in sizes])

    def read(self, jpegs: Any, texts: Any = None) -> NativeBatch:
        shown = [np.asarray(simplejpeg.decode_jpeg(jpeg)) for jpeg in jpegs]
        return NativeBatch(shown, {})  # type: ignore[arg-type]

    def encode(self, batch: NativeBatch) -> torch.Tensor:
        if self.most is not None and len(batch) > self.most:
            raise torch.OutOfMemoryError
        pictures: Any = batch.shown
        self.lengths.append([picture.shape[0] * picture.shape[1] // 256 for picture in pictures])
        return torch.tensor([[1.0, *picture.shape[:2], float(picture.mean())] for picture in pictures])


def embed(encoder: Scripted, shards: Path, pool: pl.DataFrame, batch: int) -> np.ndarray:
    from twinlens.core.scratch import Scratch, fingerprint

    rows = pool.with_columns(pl.col("image_id").alias("id"))
    with Scratch("embed", fingerprint(test=str(shards), batch=batch, most=encoder.most)) as scratch:
        embed_native(encoder, shards, rows, scratch, CPU, batch=batch, room=DeviceRoom())
        return join_parts(scratch)


def test_pictures_as_long_go_together_so_that_less_than_a_tenth_is_padding(tmp_path: Path) -> None:
    sides = np.random.default_rng(0).integers(48, 160, (60, 2))
    files = [
        simplejpeg.encode_jpeg(photo(seed, int(w), int(h)), colorsubsampling="444") for seed, (w, h) in enumerate(sides)
    ]
    rows, encoder = write_shards(files, tmp_path / "shards"), Scripted()
    found = embed(encoder, tmp_path / "shards", rows, batch=8)
    assert [len(batch) for batch in encoder.lengths] == [8] * 7 + [4]
    padded = sum(len(batch) * max(batch) for batch in encoder.lengths)
    assert 1 - sum(map(sum, encoder.lengths)) / padded < 0.1
    wanted = [(height, width) for width, height in sides]
    assert found[:, 1:3].tolist() == [list(map(float, size)) for size in wanted]
    unsorted = np.array([height * width // 256 for height, width in wanted])
    assert measure_padding(unsorted, 8) > 0.25
    assert measure_padding(np.sort(unsorted), 8) < 0.1


def test_a_batch_that_is_too_large_is_halved(pool: pl.DataFrame, tmp_path: Path) -> None:
    small = Scripted(most=2)
    found = embed(small, tmp_path / "shards", pool, batch=8)
    assert max(map(len, small.lengths)) == 2
    assert np.array_equal(found, embed(Scripted(), tmp_path / "shards", pool, batch=4))


def inputs(pool: pl.DataFrame) -> list[Input]:
    def texts(suffix: str) -> pl.DataFrame:
        ids = pool["image_id"].to_list()[: len(TEXTS)]
        return pl.DataFrame({"id": [f"{one}{suffix}" for one in ids], "image_id": ids, "text": TEXTS})

    pairs = pool.join(texts("?"), on="image_id", how="inner").select("id", "image_id", "text", "shard", "row", "sha256")
    return [
        build_picture_input(IMAGES, pool, again=(OTHER_WAY,)),
        Input(CAPTIONS, texts("#0"), again=(OTHER_WAY,)),
        Input(GENERATED, texts(""), again=(OTHER_WAY,)),
        Input(COMPOSED_PAIRS, pairs, shared=True),
    ]


def test_what_asks_and_what_is_searched_have_their_prompts_in_both_directions(
    folder: Path, pool: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[object] = []
    load = encoders.load

    def count(*args: Any) -> Any:
        loads.append(args)
        return load(*args)

    monkeypatch.setattr(encoders, "load", count)
    out = tmp_path / "out"
    out.mkdir()
    tower = card(folder, query_prompt="find", item_prompt="represent the picture")
    embedder = Embedder(ModelCard(joint=tower), tmp_path, CPU, COMPUTE, Cost())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twinlens.inference.embed.locate_weights", lambda *_: folder)
        embedder.embed(inputs(pool), tmp_path / "shards", out)
    assert len(loads) == 1
    pairs = [{"image": picture, "text": text} for picture, text in zip(decoded(), TEXTS, strict=False)]
    expected: list[tuple[str, list[Any], str]] = [
        (IMAGES, decoded(), "represent the picture"),
        (IMAGES + OTHER_WAY, decoded(), "find"),
        (CAPTIONS, TEXTS, "find"),
        (CAPTIONS + OTHER_WAY, TEXTS, "represent the picture"),
        (GENERATED, TEXTS, "represent the picture"),
        (COMPOSED_PAIRS, pairs, "find"),
    ]
    for name, shown, prompt in expected:
        found = read_vectors(out, name)
        assert np.abs(found.rows - by_library(folder, shown, prompt)).max() < 1e-6, name


def test_a_model_of_texts_alone_is_no_tower_of_pictures(pool: pl.DataFrame, tmp_path: Path) -> None:
    from tests.models.encoders.test_sentence_transformers import save

    with pytest.raises(ParamsError, match="reads no pictures: name it as `text:` on the card"):
        job(save(tmp_path / "text")).pictures("images", tmp_path / "shards", pool, tmp_path)
