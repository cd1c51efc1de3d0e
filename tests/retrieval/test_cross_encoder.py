"""The cross-encoder reranker: the library's own scores for each pair, kept, each picture read once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import simplejpeg
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder

from tests.multimodal import SHAPES, save_reranker
from tests.tiny import CPU, TEXTS, photo, write_shards
from twinlens.config.load import read_params
from twinlens.config.models import CrossEncoderCard
from twinlens.config.params import Params
from twinlens.core.errors import DataError
from twinlens.core.shards import iter_pixels
from twinlens.models import cross_encoder as models
from twinlens.retrieval import cross_encoder
from twinlens.retrieval.base import Corpus
from twinlens.retrieval.cross_encoder import rerankers
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.inputs import CAPTIONS, IMAGES
from twinlens.tasks.qrels import Groups

FILES = [
    simplejpeg.encode_jpeg(photo(seed, *shape), quality=95, colorsubsampling="444") for seed, shape in enumerate(SHAPES)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reranker(tmp_path_factory.mktemp("reranker"))


def with_card(card: CrossEncoderCard | None) -> Params:
    params = read_params()
    compute = params.compute.model_copy(update={"device": "cpu", "image_batch": 3})
    models = {**params.models, params.model: params.model_card.model_copy(update={"reranker": card})}
    return params.model_copy(update={"models": models, "compute": compute})


def made(folder: Path, tmp_path: Path) -> tuple[Task, Corpus, Params]:
    pictures = write_shards(FILES, tmp_path / "shards", per_shard=2)
    ids = pictures["image_id"].to_list()
    words = pl.DataFrame({"id": [f"q{n}" for n in range(len(TEXTS))], "image_id": ids, "text": TEXTS})
    about = TaskMetadata("a title", "t2i", 1, query_text=CAPTIONS, item_picture=IMAGES)
    numbers = np.arange(len(ids))
    task = Task("caption_to_image", about, words["id"].to_list(), ids, ids, Groups(numbers, numbers))
    card = CrossEncoderCard(cross_encoder="someone/tiny", checkpoint=str(folder), prompt="find the picture")
    corpus = Corpus({}, {CAPTIONS: words}, joint=True, shards=tmp_path / "shards", pictures=pictures)
    return task, corpus, with_card(card)


def test_scores_are_the_librarys_own_and_are_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, corpus, params = made(folder, tmp_path)
    (one,) = rerankers(task, corpus, params)
    assert (one.name, one.retriever) == ("cross_encoder", "image")
    rows = np.array([[4, 0, 2], [1, 4, 3]])
    found = one.scores(1, rows, np.zeros(rows.shape, np.float32))
    model = CrossEncoder(str(folder), device="cpu")
    decoded = [Image.fromarray(simplejpeg.decode_jpeg(file, colorspace="RGB")) for file in FILES]
    pairs = [(TEXTS[1 + query], decoded[item]) for query in range(2) for item in rows[query]]
    wanted = model.predict(pairs, prompt="find the picture", activation_fn=torch.nn.Identity(), show_progress_bar=False)
    np.testing.assert_allclose(found.ravel(), wanted, atol=1e-5)
    assert np.ptp(found) > 1e-3
    monkeypatch.setattr(models, "PairScorer", None)  # would be called if a model were wanted
    (again,) = rerankers(task, corpus, params)
    assert np.array_equal(again.scores(1, rows, found), found)


def test_a_clock_has_every_score_made_anew(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, corpus, params = made(folder, tmp_path)
    (kept,) = rerankers(task, corpus, params)
    rows, asked = np.array([[4, 0, 2]]), []
    wanted = kept.scores(0, rows, np.zeros(rows.shape, np.float32))
    own = models.PairScorer.score

    def score(self: models.PairScorer, pairs: Sequence[tuple[str, Image.Image]]) -> np.ndarray:
        asked.append(len(pairs))
        return own(self, pairs)

    monkeypatch.setattr(models.PairScorer, "score", score)
    (again,) = rerankers(task, replace(corpus, keep=False), params)
    for _ in range(2):
        assert np.array_equal(again.scores(0, rows, wanted), wanted)
    assert asked == [3, 3]


def test_each_picture_is_decoded_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, corpus, params = made(folder, tmp_path)
    read: list[str] = []

    def note(shards: Path, rows: pl.DataFrame) -> Iterator[tuple[str, bytes]]:
        read.extend(rows["image_id"])
        return iter_pixels(shards, rows)

    monkeypatch.setattr(cross_encoder, "iter_pixels", note)
    (one,) = rerankers(task, corpus, params)
    rows = np.tile([3, 1, 0], (5, 1))
    one.scores(0, rows, np.zeros(rows.shape, np.float32))
    assert read == ["picture-000", "picture-001", "picture-003"]


def test_there_is_none_without_a_card_or_for_other_tasks(folder: Path, tmp_path: Path) -> None:
    task, corpus, params = made(folder, tmp_path)
    assert rerankers(task, corpus, with_card(None)) == []
    assert rerankers(replace(task, about=replace(task.about, category="i2t")), corpus, params) == []
    assert rerankers(task, replace(corpus, shards=None), params) == []


def test_a_model_without_some_of_its_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, copy := tmp_path / "copy")
    state = load_file(copy / "model.safetensors")
    gone = next(name for name in state if "visual" in name and state[name].ndim > 1)
    save_file({name: value for name, value in state.items() if name != gone}, copy / "model.safetensors")
    card = CrossEncoderCard(cross_encoder="someone/tiny", checkpoint=str(copy))
    with pytest.raises(DataError, match=r"lacks 1 of the model's"):
        models.PairScorer(card, copy, CPU)


def test_a_folder_that_holds_no_such_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    card = CrossEncoderCard(cross_encoder="someone/tiny", checkpoint=str(tmp_path))
    with pytest.raises(DataError, match="does not hold a cross-encoder"):
        models.PairScorer(card, tmp_path, CPU)
