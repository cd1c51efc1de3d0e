"""Training a captioner: a tiny BLIP learns to describe drawn scenes, and what it wrote is what it had learnt."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BlipConfig, BlipForConditionalGeneration

from tests.tiny import CPU
from tests.training.scenes import drawn, files
from twinlens.config.captioners import CaptionerCard
from twinlens.core.errors import DataError
from twinlens.models.captioners import transformers as captioners
from twinlens.models.captioners.transformers import Captioner
from twinlens.models.encoders.base import normalise_pixels
from twinlens.training import captioning
from twinlens.training.captioning import train_captioner
from twinlens.training.data import TrainingData, TrainingResult, read_split
from twinlens.training.loop import CHECKPOINT, run_epochs
from twinlens.training.tokenizer import learn_tokenizer

pytestmark = pytest.mark.slow  # trainings

SIDE_PX = 32
EPOCHS = 8
LONGEST = 24
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
ARCHITECTURE: dict[str, Any] = {
    "text_config": SIZES | {"encoder_hidden_size": 32, "max_position_embeddings": LONGEST},
    "vision_config": SIZES | {"image_size": SIDE_PX, "patch_size": 8},
}
RECIPE = {
    "objective": "captioning", "epochs": EPOCHS, "batch_size": 16, "learning_rate": 0.02, "optimizer": "muon",
    "captions": "first",
}  # fmt: skip


def card(recipe: dict[str, Any] | None = None, **fields: Any) -> CaptionerCard:
    usual = {"captioner": "blip", "architecture": ARCHITECTURE, "train": RECIPE | (recipe or {}), "max_new_tokens": 16}
    return CaptionerCard.model_validate(usual | fields)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return drawn(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def finished(material: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingResult, Path]:
    """A folder that was written, what its training left behind, and where its unfinished work lies."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:  # not the folder of the first test that asks
        patch.setenv("TWINLENS_SCRATCH", str(folder / "scratch"))
        trained = train_captioner(card(), material, CPU, folder / "weights")
    return folder / "weights", trained, folder / "scratch"


@pytest.fixture(scope="module")
def once(material: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights after a single epoch."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TWINLENS_SCRATCH", str(folder / "scratch"))
        train_captioner(card({"epochs": 1}), material, CPU, folder / "weights")
    return folder / "weights"


def load(folder: Path) -> Captioner:
    return captioners.load(card(), folder, CPU)


def the_trained_model(finished: tuple[Path, TrainingResult, Path], material: TrainingData) -> tuple[Any, Any]:
    """The model as it was after its last epoch, and a tokenizer, neither from the folder that was written."""
    tokenizer = learn_tokenizer(read_split(material.groups, material.captions, "train").captions)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = copy.deepcopy(ARCHITECTURE)
    config["text_config"] |= special | {"sep_token_id": tokenizer.eos_token_id, "vocab_size": len(tokenizer)}
    model = BlipForConditionalGeneration(BlipConfig(**config)).eval()
    (checkpoint,) = finished[2].glob(f"train/*/{CHECKPOINT}")
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    return model, tokenizer


def held_out(material: TrainingData, folder: Path) -> tuple[torch.Tensor, list[str]]:
    """The validation pictures as uint8, and the first caption of each."""
    val = read_split(material.groups, material.captions, "val")
    store = material.store(val, load(folder).pixels)
    return store[np.arange(len(store))], [val.captions[rows[0]] for rows in val.captions_of]


# ---------------------------------------------------------------- learning


def test_training_describes_held_out_pictures_better_than_the_untrained_model(
    finished: tuple[Path, TrainingResult, Path], material: TrainingData, tmp_path: Path
) -> None:
    untrained = train_captioner(card({"epochs": 1, "learning_rate": 1e-9}), material, CPU, tmp_path / "untrained").log[
        0
    ]["val_loss"]
    curve = [row["val_loss"] for row in finished[1].log]
    assert len(curve) == EPOCHS
    assert curve[-1] < curve[0] < untrained
    assert curve[-1] < 0.5 * untrained


def test_the_loss_is_the_librarys_own_and_padding_does_not_count(
    finished: tuple[Path, TrainingResult, Path], material: TrainingData
) -> None:
    model, tokenizer = the_trained_model(finished, material)
    pictures, captions = held_out(material, finished[0])
    tokens = tokenizer(captions, padding="max_length", max_length=LONGEST, return_tensors="pt")
    assert bool((tokens.attention_mask == 0).any())
    with torch.inference_mode():
        wanted = model(
            pixel_values=pictures / 127.5 - 1,
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            labels=tokens.input_ids.masked_fill(tokens.attention_mask == 0, -100),
        ).loss
    assert finished[1].log[-1]["val_loss"] == pytest.approx(float(wanted), abs=1e-4)


def test_what_it_took_is_known(finished: tuple[Path, TrainingResult, Path]) -> None:
    assert finished[1].pictures == 192
    assert finished[1].seconds > 0
    assert [list(row) for row in finished[1].log] == [["epoch", "loss", "val_loss"]] * EPOCHS


# ---------------------------------------------------------------- what is written


def test_the_folder_gives_the_words_of_the_model_that_was_trained(
    finished: tuple[Path, TrainingResult, Path], material: TrainingData
) -> None:
    model, tokenizer = the_trained_model(finished, material)
    pictures, captions = held_out(material, finished[0])
    with torch.inference_mode():
        numbers = model.generate(pixel_values=pictures / 127.5 - 1, max_new_tokens=16, num_beams=1, do_sample=False)
    texts = load(finished[0]).caption(pictures)
    assert texts == tokenizer.batch_decode(numbers, skip_special_tokens=True)
    assert all(text.startswith(("a ", "an ")) for text in texts)  # as every first caption does
    places = [text.split()[-1] == caption.split()[-1] for text, caption in zip(texts, captions, strict=True)]
    assert np.mean(places) > 0.5  # it looks at the picture: there are five places


def test_the_folder_reads_pictures_as_the_training_did(finished: tuple[Path, TrainingResult, Path]) -> None:
    spec = load(finished[0]).pixels
    assert (spec.height, spec.width, spec.mode, spec.interpolation) == (SIDE_PX, SIDE_PX, "squash", "bicubic")
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)


def test_the_card_is_as_it_was(finished: tuple[Path, TrainingResult, Path]) -> None:
    assert "vocab_size" not in ARCHITECTURE["text_config"]


# ---------------------------------------------------------------- again


def test_a_killed_training_ends_with_the_bytes_of_one_that_was_never_stopped(
    material: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = card({"epochs": 2})
    whole = train_captioner(short, material, CPU, tmp_path / "whole")
    shutil.rmtree(tmp_path / "scratch")
    calls = 0

    def dies(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 20:  # of thirteen an epoch, with the one that validates
            raise KeyboardInterrupt
        return normalise_pixels(*arguments)

    monkeypatch.setattr(captioning, "normalise_pixels", dies)
    with pytest.raises(KeyboardInterrupt):
        train_captioner(short, material, CPU, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
    calls = 20 - 13  # so that the second epoch may run and no more
    again = train_captioner(short, material, CPU, tmp_path / "weights")
    assert calls == 20
    assert files(tmp_path / "weights") == files(tmp_path / "whole")
    assert again.log == whole.log


def test_how_words_are_searched_for_does_not_train_again(
    finished: tuple[Path, TrainingResult, Path], material: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINLENS_SCRATCH", str(finished[2]))
    monkeypatch.delattr(captioning, "normalise_pixels")  # without which nothing can be trained
    other = card(max_new_tokens=5, num_beams=3, about={"note": "a remark", "licence": "Apache-2.0"})
    again = train_captioner(other, material, CPU, tmp_path / "weights")
    assert (again.log, again.seconds) == (finished[1].log, finished[1].seconds)
    assert files(tmp_path / "weights") == files(finished[0])


@pytest.mark.parametrize("change", [{"seed": 1}, {"captions": "random"}])
def test_another_recipe_gives_other_weights(
    change: dict[str, Any], once: Path, material: TrainingData, tmp_path: Path
) -> None:
    train_captioner(card(change | {"epochs": 1}), material, CPU, tmp_path / "weights")
    ours, theirs = files(once), files(tmp_path / "weights")
    assert {name for name in ours if ours[name] != theirs[name]} == {"model.safetensors"}


def test_the_best_epoch_is_the_one_with_the_lowest_loss_on_what_was_not_trained_on(
    material: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noting(*args: Any, **others: Any) -> list[dict[str, float]]:
        rows = run_epochs(*args, **others)
        merits.append([others["merit"](row) for row in rows])
        return rows

    merits: list[list[float]] = []
    monkeypatch.setattr(captioning, "run_epochs", noting)
    trained = train_captioner(card({"epochs": 2}), material, CPU, tmp_path)
    assert merits == [[-row["val_loss"] for row in trained.log]]


def test_a_caption_longer_than_the_model_is_cut_and_can_be_learnt(material: TrainingData, tmp_path: Path) -> None:
    short = copy.deepcopy(ARCHITECTURE)
    short["text_config"]["max_position_embeddings"] = 6
    trained = train_captioner(
        card({"epochs": 2}, architecture=short, max_new_tokens=5), material, CPU, tmp_path / "weights"
    )
    assert trained.log[1]["loss"] < trained.log[0]["loss"]
    texts = captioners.load(card(max_new_tokens=5), tmp_path / "weights", CPU).caption(
        torch.zeros(2, 3, SIDE_PX, SIDE_PX, dtype=torch.uint8)
    )
    assert all(text for text in texts)


def test_pictures_that_are_measured_are_not_trained_on(material: TrainingData, tmp_path: Path) -> None:
    everything = TrainingData(
        material.groups.with_columns(in_pool=material.groups["split"] != "val"), material.captions, material.shards, 1
    )
    with pytest.raises(DataError, match="192 training pictures are in the pool too"):
        train_captioner(card(), everything, CPU, tmp_path / "weights")
