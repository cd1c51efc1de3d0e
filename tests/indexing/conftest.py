"""A small pool that went through the stages for real: drawn, trained on, embedded, indexed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages import download, embed, filter, group, index, resize, tasks, train
from tests.workspace import ROOT, change
from twinlens.config.load import read_params
from twinlens.core import paths, tables
from twinlens.tasks.validation import draw_validation

ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 0, "width": 32, "heads": 2, "layers": 1},
}
DATASET, MODEL, CAPTIONER = "scenes", "clip-scenes", "git"
POOL, NEGATIVES = 60, 40
CHECKPOINT = "$TWINLENS_TEST_WEIGHTS"


def choose(folder: Path) -> None:
    """Write settings and cards: a tiny pool, a tiny CLIP, and its towers apart."""
    shutil.copytree(ROOT / "cards", folder / "cards")
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    tower = {"open_clip": "custom", "architecture": ARCHITECTURE, "checkpoint": CHECKPOINT}
    scenes = {"train": 96, "val": 16, "test": POOL, "side_px": 48}
    train = {"epochs": 2, "batch_size": 32, "captions": "first"}
    change(
        folder,
        {
            "captioner": CAPTIONER,
            "category_search.negatives": NEGATIVES,
            "category_search.standard.queries_per_class": 1,  # the pool is too small for more
            "index.thumbnail_px": 32,
            **{f"cards/datasets/{DATASET}.yaml:{key}": value for key, value in scenes.items()},
            **{f"cards/models/{MODEL}.yaml:train.{key}": value for key, value in train.items()},
            f"cards/models/{MODEL}.yaml:joint.architecture": ARCHITECTURE,
            "cards/models/apart.yaml:": {"image": tower, "text": tower},
            "cards/models/pixels.yaml:": {"image": tower},
            "cards/models/words.yaml:": {"text": tower},
        },
    )


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's root, as it were, once every stage has run."""
    return build(tmp_path_factory.mktemp("searched"), (MODEL, "apart", "pixels", "words"), _said)


def build(folder: Path, models: Sequence[str], said: Callable[[int, list[str]], str]) -> Path:
    """Run every stage in a folder; `said` is the generated caption of a picture, by its row and its labels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TWINLENS_SCRATCH", str(folder / "scratch"))
        patch.setenv(CHECKPOINT[1:], str(folder / paths.trained(DATASET, MODEL) / "weights"))
        patch.chdir(folder)
        choose(folder)
        download.main(DATASET)
        filter.main(DATASET)
        resize.main(DATASET)
        group.main(DATASET)
        _describe(said)
        tasks.main(DATASET, CAPTIONER)
        for model in models:
            train.main(DATASET, model)
            embed.main(DATASET, model)
            index.main(DATASET, model, CAPTIONER)
    return folder


def _said(_: int, labels: list[str]) -> str:
    """A generated caption that anyone can check: the labels, in reverse."""
    return f"machine says {' '.join(reversed(labels))}"


def _describe(said: Callable[[int, list[str]], str]) -> None:
    images = tables.read_table(paths.filtered(DATASET) / "images.parquet", tables.IMAGES)
    groups = tables.read_table(paths.grouped(DATASET) / "images.parquet", tables.GROUPS).filter("in_pool")
    labels = dict(images.select("image_id", "labels").iter_rows())
    texts = [said(row, labels[image_id]) for row, image_id in enumerate(groups["image_id"])]
    table = pl.DataFrame({"image_id": groups["image_id"], "text": texts})
    tables.write_table(table, paths.captioned(DATASET, CAPTIONER) / "captions.parquet", tables.GENERATED)
    groups = tables.read_table(paths.grouped(DATASET) / "images.parquet", tables.GROUPS)
    captions = tables.read_table(paths.filtered(DATASET) / "captions.parquet", tables.CAPTIONS)
    drawn = draw_validation(groups, captions, read_params().hybrid)["image_id"]
    texts = [said(row, labels[image_id]) for row, image_id in enumerate(drawn)]
    table = pl.DataFrame({"image_id": drawn, "text": texts})
    tables.write_table(table, paths.captioned(DATASET, CAPTIONER) / "validation.parquet", tables.GENERATED)


@pytest.fixture
def root(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished folder, to be read."""
    return entered(built, built, monkeypatch)


@pytest.fixture
def copy(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(built, tmp_path / "copy")
    return entered(tmp_path / "copy", built, monkeypatch)


def entered(folder: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder, with the weights of the one that was built."""
    monkeypatch.setenv("TWINLENS_SCRATCH", str(folder / "scratch"))
    monkeypatch.setenv(CHECKPOINT[1:], str(built / paths.trained(DATASET, MODEL) / "weights"))
    monkeypatch.chdir(folder)
    return folder
