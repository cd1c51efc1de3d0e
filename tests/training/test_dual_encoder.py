"""Contrastive training: a tiny CLIP learns drawn scenes, and what it wrote is what it had learnt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.model import CLIP

from tests.tiny import CPU
from tests.training.scenes import drawn, files
from twinlens.config.models import OpenClipTower
from twinlens.config.training import TowerRecipe
from twinlens.core.errors import DataError
from twinlens.core.shards import iter_pixels
from twinlens.images.transforms import batch_pixels
from twinlens.models import encoders
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.training import losses
from twinlens.training.data import Split, TrainingData, TrainingResult, read_split
from twinlens.training.dual_encoder import make_preprocess, train_towers
from twinlens.training.loop import CHECKPOINT
from twinlens.training.losses import clip
from twinlens.training.tokenizer import learn_tokenizer

pytestmark = pytest.mark.slow  # trainings

SIDE_PX = 32
EPOCHS = 6
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": SIDE_PX, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 0, "width": 32, "heads": 2, "layers": 1},
}
TOWER = OpenClipTower(open_clip="custom", architecture=ARCHITECTURE)


def recipe(**fields: Any) -> TowerRecipe:
    usual = {"epochs": EPOCHS, "batch_size": 32, "learning_rate": 0.01, "optimizer": "muon", "weight_decay": 0.1}
    return TowerRecipe.model_validate({"objective": "clip"} | usual | fields)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return drawn(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def finished(
    material: TrainingData, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, TrainingResult, Path]]:
    """A folder that was written, what its training left behind, and where its unfinished work lay."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:  # not the folder of the first test that asks
        patch.setenv("TWINLENS_SCRATCH", str(folder / "scratch"))
        trained = train_towers(TOWER, recipe(), material, CPU, folder)
        yield folder / "weights", trained, folder / "scratch"


def loaded(folder: Path) -> LoadedEncoders:
    card = TOWER.model_copy(update={"checkpoint": str(folder)})
    return encoders.load(card, encoders.locate(card), CPU)


def vectors(towers: LoadedEncoders, material: TrainingData, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors of a split's pictures and of its captions."""
    assert towers.image is not None and towers.text is not None
    jpegs = [jpeg for _, jpeg in iter_pixels(material.shards, split.pictures)]
    with torch.inference_mode():
        pictures = towers.image.encode(batch_pixels(jpegs, towers.image.pixels))
        texts = towers.text.encode(split.captions)
    return torch.nn.functional.normalize(pictures, dim=1), torch.nn.functional.normalize(texts, dim=1)


def hit_at_10(towers: LoadedEncoders, material: TrainingData, split: Split) -> float:
    """The share of captions whose picture is among the ten nearest, worked out one by one."""
    pictures, texts = vectors(towers, material, split)
    hits = []
    for picture, rows in enumerate(split.captions_of):
        for row in rows:
            order = (pictures @ texts[row]).argsort(descending=True).tolist()
            hits.append(order.index(picture) < 10)
    return float(np.mean(hits))


# ---------------------------------------------------------------- the loss


def test_the_loss_is_the_mean_of_both_directions_worked_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    by_picture = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-2))) / 2
    by_text = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3))) / 2
    assert float(clip(logits)) == pytest.approx((by_picture + by_text) / 2, rel=1e-6)


def test_the_loss_is_symmetric_and_does_not_depend_on_the_order_of_the_pairs() -> None:
    logits = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    loss = clip(logits)
    assert torch.allclose(clip(logits.T), loss)
    assert torch.allclose(clip(logits[order][:, order]), loss)
    assert not torch.allclose(clip(logits[order]), loss)


def test_the_loss_is_that_of_guessing_when_nothing_is_told_apart_and_none_when_everything_is() -> None:
    assert float(clip(torch.zeros(9, 9))) == pytest.approx(math.log(9))
    assert float(clip(100 * torch.eye(9))) == pytest.approx(0.0, abs=1e-6)


# ---------------------------------------------------------------- learning


def test_training_finds_more_held_out_pictures_than_the_untrained_model(
    finished: tuple[Path, TrainingResult, Path], material: TrainingData
) -> None:
    folder, trained, _ = finished
    val = read_split(material.groups, material.captions, "val")
    before, after = (hit_at_10(loaded(path), material, val) for path in (folder.parent / "untrained", folder))
    assert before < 0.4  # ten of 48 pictures by chance
    assert after > before + 0.15
    assert trained.log[-1]["loss"] < 0.8 * trained.log[1]["loss"]


def test_the_curve_says_how_many_held_out_pictures_are_found(
    finished: tuple[Path, TrainingResult, Path], material: TrainingData
) -> None:
    folder, trained, _ = finished
    assert [row["epoch"] for row in trained.log] == list(range(EPOCHS + 1))
    spread = [f"{side}_{figure}" for side in ("image", "text") for figure in ("variance", "cosine")]
    figures = ["val_loss", "val_mrr", "val_hit_at_10", *spread]
    assert [list(row) for row in trained.log] == [["epoch", *figures], *[["epoch", "loss", *figures]] * EPOCHS]
    val = read_split(material.groups, material.captions, "val")
    assert trained.log[-1]["val_hit_at_10"] == pytest.approx(hit_at_10(loaded(folder), material, val), abs=1e-6)


def test_what_it_took_is_known(finished: tuple[Path, TrainingResult, Path], material: TrainingData) -> None:
    assert finished[1].pictures == len(material.groups.filter(split="train")) == 192
    assert finished[1].seconds > 0


# ---------------------------------------------------------------- what is written


def test_the_folder_gives_the_vectors_of_the_model_that_was_trained(
    finished: tuple[Path, TrainingResult, Path], material: TrainingData
) -> None:
    folder, _, scratch = finished
    towers = loaded(folder)
    assert towers.image is not None and towers.text is not None
    (checkpoint,) = scratch.glob(f"train/*/{CHECKPOINT}")
    whole = torch.load(checkpoint, weights_only=True)["model"]
    state = {name.removeprefix("model."): value for name, value in whole.items() if name.startswith("model.")}
    words = len(state["token_embedding.weight"])
    text = ARCHITECTURE["text_cfg"] | {"vocab_size": words}
    model = CLIP(**(ARCHITECTURE | {"text_cfg": text})).eval()
    model.load_state_dict(state)
    val = read_split(material.groups, material.captions, "val")
    pictures, texts = vectors(towers, material, val)
    store = material.store(val, towers.image.pixels)
    numbers = learn_tokenizer(read_split(material.groups, material.captions, "train").captions)(
        val.captions, padding="max_length", truncation=True, max_length=24, return_tensors="pt"
    ).input_ids
    with torch.inference_mode():
        own_pictures = model.encode_image(store[np.arange(len(store))] / 127.5 - 1, normalize=True)
        own_texts = model.encode_text(numbers, normalize=True)
    assert (pictures - own_pictures).abs().max() < 1e-5
    assert (texts - own_texts).abs().max() < 1e-5
    assert (towers.text.max_tokens, len(texts)) == (24, 48 * 5)
    assert (own_pictures[0] - own_pictures[1]).abs().max() > 1e-2


def test_pictures_are_read_whole_at_the_size_of_the_architecture() -> None:
    assert make_preprocess(TOWER) == {
        "size": [SIDE_PX, SIDE_PX],
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }


def test_the_card_is_as_it_was(finished: tuple[Path, TrainingResult, Path]) -> None:
    assert ARCHITECTURE["text_cfg"]["vocab_size"] == 0
    assert "hf_tokenizer_name" not in ARCHITECTURE["text_cfg"]


# ---------------------------------------------------------------- again


def test_a_killed_training_ends_with_the_bytes_of_one_that_was_never_stopped(
    finished: tuple[Path, TrainingResult, Path], material: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def dies(logits: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()  # not while validating
        if calls > 15:  # of six an epoch
            raise KeyboardInterrupt
        return clip(logits)

    monkeypatch.setattr(losses, "clip", dies)
    with pytest.raises(KeyboardInterrupt):
        train_towers(TOWER, recipe(), material, CPU, tmp_path)
    assert not (tmp_path / "weights").exists()
    calls = -9  # so that the rest, four epochs, may run and no more
    again = train_towers(TOWER, recipe(), material, CPU, tmp_path)
    assert calls == 15
    assert files(tmp_path / "weights") == files(finished[0])
    assert again.log == finished[1].log


def test_another_seed_gives_other_weights(
    finished: tuple[Path, TrainingResult, Path], material: TrainingData, tmp_path: Path
) -> None:
    train_towers(TOWER, recipe(seed=1, epochs=1), material, CPU, tmp_path)
    ours, theirs = files(finished[0].parent / "untrained"), files(tmp_path / "untrained")
    assert {name for name in ours if ours[name] != theirs[name]} == {"open_clip_model.safetensors"}
    assert theirs != files(tmp_path / "weights")


def test_pictures_that_are_measured_are_not_trained_on(material: TrainingData, tmp_path: Path) -> None:
    everything = TrainingData(
        material.groups.with_columns(in_pool=material.groups["split"] != "val"), material.captions, material.shards, 1
    )
    with pytest.raises(DataError, match="192 training pictures are in the pool too"):
        train_towers(TOWER, recipe(), everything, CPU, tmp_path)


def test_captions_are_cut_where_the_card_says_so(
    finished: tuple[Path, TrainingResult, Path], material: TrainingData, tmp_path: Path
) -> None:
    cut = train_towers(TOWER, recipe(caption_tokens=6, epochs=1), material, CPU, tmp_path / "cut")
    assert cut.log[0]["val_loss"] != finished[1].log[0]["val_loss"]  # of the same weights, before training
    assert files(tmp_path / "cut/untrained") == files(finished[0].parent / "untrained")


def test_a_batch_larger_than_the_training_split_is_refused(material: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.batch_size is 500, but the training split has 192 pictures"):
        train_towers(TOWER, recipe(batch_size=500), material, CPU, tmp_path)
    assert not (tmp_path / "weights").exists()


def test_a_learning_rate_that_blows_up_is_found_out(material: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Try a lower train\.learning_rate"):
        train_towers(TOWER, recipe(learning_rate=1e9, optimizer="adamw", warmup_share=0.0), material, CPU, tmp_path)
    assert not (tmp_path / "weights").exists()
