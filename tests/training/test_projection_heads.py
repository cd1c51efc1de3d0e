"""Heads on frozen towers: they learn, begin where the folder says, and refuse what they were not made for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import CPU
from tests.training.frozen import WIDTH, card, features, write_towers
from tests.training.scenes import drawn, files
from twinlens.config.models import ModelCard, TimmTower
from twinlens.core.errors import DataError
from twinlens.core.scratch import write_whole
from twinlens.models.heads import CAPTION_TO_IMAGE, IMAGE_TO_CAPTION, WEIGHTS, ProjectionHeads
from twinlens.training import contrastive
from twinlens.training.data import TrainingData, TrainingResult, read_split
from twinlens.training.losses import compute_loss
from twinlens.training.projection_heads import train_heads

pytestmark = pytest.mark.slow  # trainings

Towers = tuple[TimmTower, Path]
MARGIN = {"margin": 1.0, "distance": "squared_euclidean", "negatives": "random", "on_collapse": "record"}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return drawn(tmp_path_factory.mktemp("scenes"), side_px=32)


@pytest.fixture(scope="module")
def embedded(material: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Towers, Path]:
    """Towers, and a folder of unfinished work that holds their vectors, so that tests need not make them again."""
    folder = tmp_path_factory.mktemp("towers")
    towers = write_towers(folder, material)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TWINLENS_SCRATCH", str(folder / "scratch"))
        found = features(card(towers))
        for split in ("train", "val"):
            part = read_split(material.groups, material.captions, split)
            found.embed_pictures(material.shards, part.pictures)
    return towers, folder / "scratch"


@pytest.fixture
def towers(embedded: tuple[Towers, Path], tmp_path: Path) -> Towers:
    shutil.copytree(embedded[1], tmp_path / "scratch")
    return embedded[0]


def train(model: ModelCard, material: TrainingData, out: Path) -> TrainingResult:
    return train_heads(model, material, features(model), CPU, out)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"objective": "triplet", "negatives": "hardest"},
        {"objective": "siglip"},
        {"heads": {"batch_norm": True, "unit_input": False, "image_hidden": [32]}},
        {"objective": "triplet", **MARGIN, "heads": {"unit_length": False, "unit_input": False}},
    ],
    ids=["clip", "hardest", "siglip", "batch norm", "as published"],
)
def test_heads_find_more_held_out_pictures_than_before(
    fields: dict[str, Any], towers: Towers, material: TrainingData, tmp_path: Path
) -> None:
    trained = train(card(towers, **fields), material, tmp_path / "out")
    assert trained.log[-1]["val_mrr"] > trained.log[0]["val_mrr"] + 0.03  # chance is 0.09
    assert trained.pictures == 192


def test_the_folder_gives_the_ranking_that_was_validated_and_the_untrained_one_that_it_began_with(
    towers: Towers, material: TrainingData, tmp_path: Path
) -> None:
    model = card(towers)
    trained = train(model, material, tmp_path / "out")
    val, read = read_split(material.groups, material.captions, "val"), features(model)
    pictures = read.embed_pictures(material.shards, val.pictures)
    texts = read.embed_texts(pl.DataFrame({"id": [str(n) for n in range(len(val.captions))], "text": val.captions}))
    for name, row in (("untrained", trained.log[0]), ("weights", trained.log[-1])):
        heads = ProjectionHeads.read(tmp_path / "out" / name)
        image, text = (
            heads.apply_to(rows, "both", side, CPU.device) for rows, side in ((pictures, "image"), (texts, "text"))
        )
        scores = text @ image.T
        of = np.repeat(np.arange(len(val.captions_of)), [len(rows) for rows in val.captions_of])
        ranks = (scores >= scores[np.arange(len(of)), of][:, None]).sum(axis=1)
        assert row["val_mrr"] == pytest.approx((1 / ranks).mean(), abs=1e-3)


def test_the_untrained_folder_is_what_the_seed_says_before_any_step(
    towers: Towers, material: TrainingData, tmp_path: Path
) -> None:
    for name, fields in (("short", {"epochs": 1}), ("long", {"epochs": 2}), ("seed", {"epochs": 1, "seed": 1})):
        train(card(towers, "mean", **fields), material, tmp_path / name)
    assert files(tmp_path / "short/untrained") == files(tmp_path / "long/untrained")
    assert files(tmp_path / "short/untrained")[WEIGHTS] != files(tmp_path / "seed/untrained")[WEIGHTS]
    assert files(tmp_path / "short/untrained")[WEIGHTS] != files(tmp_path / "short/weights")[WEIGHTS]


def test_each_direction_has_a_pair_of_its_own_and_both_learn(
    towers: Towers, material: TrainingData, tmp_path: Path
) -> None:
    model = card(towers, objective="triplet", negatives="semi_hard", heads={"directions": "each"})
    log = train(model, material, tmp_path / "out").log
    assert log[-1]["val_mrr"] > log[0]["val_mrr"] + 0.03
    before, after = (load_file(tmp_path / "out" / name / WEIGHTS) for name in ("untrained", "weights"))
    for direction in (IMAGE_TO_CAPTION, CAPTION_TO_IMAGE):
        mine = [name for name in after if name.startswith(f"pairs.{direction}.")]
        assert {name.split(".")[2] for name in mine} == {"image", "text"}
        assert all(not torch.equal(before[name], after[name]) for name in mine)


def test_an_lstm_over_the_words_learns(towers: Towers, material: TrainingData, tmp_path: Path) -> None:
    log = train(card(towers, pooling="none"), material, tmp_path / "out").log
    assert log[-1]["val_mrr"] > log[0]["val_mrr"] + 0.05


def test_bfloat16_learns(towers: Towers, material: TrainingData, tmp_path: Path) -> None:
    for pooling in ("mean", "none"):
        log = train(card(towers, pooling=pooling, precision="bfloat16"), material, tmp_path / pooling).log  # type: ignore[arg-type]
        assert log[-1]["val_mrr"] > log[0]["val_mrr"] + 0.03


@pytest.mark.parametrize(
    "fields",
    [{}, {"heads": {"directions": "each", "image_dropout": 0.3}, "objective": "triplet", "negatives": "random"}],
)
def test_a_killed_training_ends_with_the_bytes_of_one_that_was_never_stopped(
    fields: dict[str, Any], towers: Towers, material: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = card(towers, **fields)
    views = 2 if "heads" in fields else 1
    calls = 0

    def dies(*args: Any, **named: Any) -> torch.Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()
        if calls > views * 15:  # of six steps an epoch
            raise KeyboardInterrupt
        return compute_loss(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(contrastive, "compute_loss", dies)
        with pytest.raises(KeyboardInterrupt):
            train(model, material, tmp_path / "killed")
    again = train(model, material, tmp_path / "killed")
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(tmp_path / "scratch/embed", tmp_path / "elsewhere/embed")
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "elsewhere"))
    whole = train(model, material, tmp_path / "whole")
    assert again.log == whole.log
    for name in ("weights", "untrained"):
        assert files(tmp_path / "killed" / name) == files(tmp_path / "whole" / name)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize("side", ["image", "text"])
def test_towers_of_another_width_than_the_card_says_are_refused(
    side: str, towers: Towers, material: TrainingData, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"heads\.{side}_width is 999, but the {side} tower's vectors have \d+ dim"):
        train(card(towers, heads={f"{side}_width": 999}), material, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    if side == "text":
        train(card(towers, heads={"text_width": WIDTH}, epochs=1), material, tmp_path / "out")


def test_the_width_of_words_read_one_by_one_is_checked_too(
    towers: Towers, material: TrainingData, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"text_width is 300, but the text tower's vectors have {WIDTH} dimensions"):
        train(card(towers, pooling="none", heads={"text_width": 300}), material, tmp_path / "out")


def only(material: TrainingData, count: int, captions: pl.DataFrame | None = None) -> TrainingData:
    """So many pictures in the training split."""
    train = material.groups.filter(split="train")["image_id"][count:].implode()
    groups = material.groups.filter(~pl.col("image_id").is_in(train))
    return TrainingData(groups, material.captions if captions is None else captions, material.shards, 1)


def test_a_batch_larger_than_the_split_is_refused(towers: Towers, material: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.batch_size is 32, but the training split has 20 pictures"):
        train(card(towers), only(material, 20), tmp_path / "out")
    with pytest.raises(DataError, match=r"train\.batch_size is 2, but the training split has 1 pictures"):
        train(card(towers, batch_size=2), only(material, 1), tmp_path / "out")


def test_a_training_split_without_captions_is_refused(towers: Towers, material: TrainingData, tmp_path: Path) -> None:
    val = material.groups.filter(split="val")["image_id"].implode()
    captions = material.captions.filter(pl.col("image_id").is_in(val))
    with pytest.raises(DataError, match="split 'train' has no captioned picture to train on"):
        train(card(towers), only(material, 999, captions), tmp_path / "out")


def test_a_picture_left_over_by_whole_batches_is_no_trouble_to_a_batch_norm(
    towers: Towers, material: TrainingData, tmp_path: Path
) -> None:
    model = card(towers, drop_last=False, heads={"batch_norm": True}, epochs=2)
    assert len(train(model, only(material, 65), tmp_path / "out").log) == 3


def test_a_useless_loss_names_its_step_and_overwrites_nothing(
    towers: Towers, material: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with write_whole(tmp_path / "out") as draft:
        train(card(towers, epochs=1), material, draft)
    before = files(tmp_path / "out/weights")
    steps = 0

    def useless(*args: Any, **named: Any) -> torch.Tensor:
        nonlocal steps
        steps += torch.is_grad_enabled()
        return compute_loss(*args, **named) * (float("nan") if steps == 9 else 1.0)

    monkeypatch.setattr(contrastive, "compute_loss", useless)
    with (
        pytest.raises(DataError, match="the loss is nan at step 3 of epoch 2; the weights of epoch 1 are kept"),
        write_whole(tmp_path / "out") as draft,
    ):
        train(card(towers), material, draft)
    assert files(tmp_path / "out/weights") == before
