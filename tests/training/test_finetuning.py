"""Pretrained pairs of towers, trained on: they learn, what is frozen stays, and what was written is what was learnt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from tests.tiny import CPU, sizes, special_tokens, tokenizer, write_json
from tests.training.scenes import drawn, files
from twinlens.config.models import ModelCard, OpenClipTower, TransformersTower
from twinlens.config.training import TowerRecipe
from twinlens.core.errors import DataError, ParamsError
from twinlens.core.shards import iter_pixels
from twinlens.images.transforms import batch_pixels
from twinlens.models import encoders
from twinlens.models.weights import identify_weights
from twinlens.training import contrastive
from twinlens.training.data import TrainingData, TrainingResult, read_split
from twinlens.training.dual_encoder import train_towers
from twinlens.training.losses import compute_loss

pytestmark = pytest.mark.slow  # trainings

SIDE_PX, LENGTH = 32, 24
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": SIDE_PX, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": LENGTH, "vocab_size": 0, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESS = {"size": [SIDE_PX] * 2, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}
VISION = sizes(image_size=SIDE_PX, patch_size=8, num_hidden_layers=1)
SIMILAR = 1e-5

Tower = OpenClipTower | TransformersTower


def recipe(**fields: Any) -> TowerRecipe:
    usual = {"epochs": 6, "batch_size": 16, "learning_rate": 0.01, "optimizer": "muon", "objective": "clip"}
    return TowerRecipe.model_validate(usual | fields)


# ---------------------------------------------------------------- pretrained models


def open_clip_folder(folder: Path, words: PreTrainedTokenizerFast) -> Tower:
    config = ARCHITECTURE | {"text_cfg": ARCHITECTURE["text_cfg"] | {"vocab_size": len(words)}}
    model = CLIP(**config)
    config["text_cfg"] |= {"hf_tokenizer_name": "beside the weights"}
    write_json(
        {"model_cfg": config, "preprocess_cfg": PREPROCESS | {"resize_mode": "squash"}},
        folder / "open_clip_config.json",
    )
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    words.save_pretrained(folder)
    return OpenClipTower(open_clip="custom", architecture=ARCHITECTURE, checkpoint=str(folder))


def clip_folder(folder: Path, words: PreTrainedTokenizerFast) -> Tower:
    text = sizes(vocab_size=len(words), max_position_embeddings=LENGTH, num_hidden_layers=1, **special_tokens(words))
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24))
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE_PX}, crop_size={"height": SIDE_PX, "width": SIDE_PX})
    for part in (model, words, processor):
        part.save_pretrained(folder)
    return TransformersTower(transformers="someone/tiny-clip", checkpoint=str(folder))


def siglip_folder(folder: Path, words: PreTrainedTokenizerFast) -> Tower:
    text = sizes(
        vocab_size=len(words),
        max_position_embeddings=LENGTH,
        projection_size=32,
        num_hidden_layers=1,
        **special_tokens(words),
    )
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10))
        model.logit_bias.fill_(-10)
    for part in (model, words, SiglipImageProcessor(size={"height": SIDE_PX, "width": SIDE_PX})):
        part.save_pretrained(folder)
    return TransformersTower(transformers="someone/tiny-siglip", checkpoint=str(folder))


KINDS: dict[str, Callable[[Path, PreTrainedTokenizerFast], Tower]] = {
    "open_clip": open_clip_folder,
    "clip": clip_folder,
    "siglip": siglip_folder,
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return drawn(tmp_path_factory.mktemp("scenes"), side_px=SIDE_PX)


@pytest.fixture(scope="module")
def towers(material: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tower]:
    words = tokenizer(read_split(material.groups, material.captions, "train").captions)
    made = {}
    for name, make in KINDS.items():
        torch.manual_seed(0)
        made[name] = make(tmp_path_factory.mktemp(name), words)
    return made


Finished = dict[str, tuple[Path, TrainingResult]]


@pytest.fixture(scope="module")
def finished(
    material: TrainingData, towers: dict[str, Tower], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], tuple[Path, TrainingResult]]]:
    """By kind, a folder that was written and what its training left behind; trained when first asked for."""
    folder, done = tmp_path_factory.mktemp("trained"), Finished()

    def of(kind: str) -> tuple[Path, TrainingResult]:
        if kind not in done:
            with pytest.MonkeyPatch.context() as patch:  # not the folder of the test that asks
                patch.setenv("TWINLENS_SCRATCH", str(folder / "scratch"))
                trained = train_towers(towers[kind], recipe(**USUAL[kind]), material, CPU, folder / kind)
            done[kind] = folder / kind / "weights", trained
        return done[kind]

    yield of


# The texts of a SigLIP with random weights come closer to one another before they go apart.
USUAL: dict[str, dict[str, Any]] = {
    "open_clip": {},
    "clip": {},
    "siglip": {"objective": "siglip", "on_collapse": "record"},
}


def vectors(tower: Tower, folder: Path | None, material: TrainingData) -> tuple[torch.Tensor, torch.Tensor]:
    """What the encoders give for the validation pictures and captions."""
    loaded = encoders.load(tower, folder or encoders.locate(tower), CPU)
    assert loaded.image is not None and loaded.text is not None
    val = read_split(material.groups, material.captions, "val")
    with torch.inference_mode():
        jpegs = [jpeg for _, jpeg in iter_pixels(material.shards, val.pictures)]
        pictures = loaded.image.encode(batch_pixels(jpegs, loaded.image.pixels))
        return pictures, loaded.text.encode(val.captions)


def mrr(tower: Tower, folder: Path | None, material: TrainingData) -> float:
    """Mean reciprocal rank of each caption's picture, worked out one by one."""
    pictures, texts = vectors(tower, folder, material)
    found = []
    for picture, rows in enumerate(read_split(material.groups, material.captions, "val").captions_of):
        for row in rows:
            cosines = torch.cosine_similarity(pictures, texts[row][None])
            found.append(1 / int((cosines >= cosines[picture]).sum()))
    return float(np.mean(found))


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("kind", KINDS)
def test_training_finds_more_held_out_pictures_and_the_folder_holds_what_was_learnt(
    kind: str, finished: Callable[[str], tuple[Path, TrainingResult]], towers: dict[str, Tower], material: TrainingData
) -> None:
    folder, trained = finished(kind)
    before, after = (mrr(towers[kind], path, material) for path in (None, folder))
    assert after > before + 0.02  # of 48 pictures; chance is 0.09
    assert trained.log[0]["val_mrr"] == pytest.approx(before, abs=1e-4)
    assert trained.log[-1]["val_mrr"] == pytest.approx(after, abs=1e-4)
    assert trained.pictures == 192
    assert not (folder.parent / "untrained").exists()  # that is what the card names


# The losses themselves are held by test_losses, and test_pairs learns by all of them; siglip is among `finished`.
@pytest.mark.parametrize(
    "fields",
    [{"objective": "margin", "margin": 0.8}, {"objective": "triplet", "negatives": "semi_hard"}],
    ids=lambda fields: " ".join(map(str, fields.values())),
)
def test_other_objectives_teach_towers_too(
    fields: dict[str, Any], towers: dict[str, Tower], material: TrainingData, tmp_path: Path
) -> None:
    log = train_towers(towers["open_clip"], recipe(**fields), material, CPU, tmp_path).log
    assert log[-1]["val_mrr"] > log[0]["val_mrr"] + 0.03


def test_the_learnt_temperature_goes_where_the_library_keeps_it(
    finished: Callable[[str], tuple[Path, TrainingResult]], towers: dict[str, Tower]
) -> None:
    for kind, name in (("open_clip", "open_clip_model"), ("clip", "model"), ("siglip", "model")):
        before = load_file(Path(str(towers[kind].checkpoint)) / f"{name}.safetensors")
        after = load_file(finished(kind)[0] / f"{name}.safetensors")
        assert before.keys() == after.keys()
        learnt = [key for key in before if key.startswith("logit_")]
        assert len(learnt) == (2 if kind == "siglip" else 1)
        for key in learnt:
            assert before[key].shape == after[key].shape
            assert not torch.equal(before[key], after[key])


def test_the_transform_and_the_tokenizer_are_written_beside_the_weights(
    finished: Callable[[str], tuple[Path, TrainingResult]], towers: dict[str, Tower]
) -> None:
    for kind, tower in towers.items():
        before = encoders.load(tower, encoders.locate(tower), CPU)
        after = encoders.load(tower, finished(kind)[0], CPU)
        assert before.image is not None and after.image is not None
        assert before.text is not None and after.text is not None
        assert after.image.pixels == before.image.pixels
        assert after.text.max_tokens == before.text.max_tokens == LENGTH
        assert after.text.token_counts(["a red car"]) == before.text.token_counts(["a red car"])


# ---------------------------------------------------------------- frozen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["image", "text"])
def test_a_frozen_tower_gives_the_vectors_it_gave(
    side: str, kind: str, towers: dict[str, Tower], material: TrainingData, tmp_path: Path
) -> None:
    card = recipe(**USUAL[kind], freeze=side, epochs=1, weight_decay=0.1)
    train_towers(towers[kind], card, material, CPU, tmp_path)
    before, after = (vectors(towers[kind], folder, material) for folder in (None, tmp_path / "weights"))
    apart = [float((one - other).abs().max()) for one, other in zip(before, after, strict=True)]
    frozen, trained = apart if side == "image" else apart[::-1]
    assert frozen == 0.0
    assert trained > 0.01


# ---------------------------------------------------------------- in less memory


def first_loss(
    tower: Tower, material: TrainingData, folder: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any
) -> float:
    """The loss of the first step."""
    seen: list[float] = []

    def noting(*args: Any, **named: Any) -> torch.Tensor:
        loss = compute_loss(*args, **named)
        if torch.is_grad_enabled():
            seen.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(contrastive, "compute_loss", noting)
    train_towers(tower, recipe(epochs=1, **fields), material, CPU, folder)
    assert len(seen) == 12
    return seen[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", [{"checkpointing": True}, {"part_size": 9}], ids=["checkpointing", "parts"])
def test_memory_is_saved_without_another_loss_or_other_weights(
    fields: dict[str, Any],
    kind: str,
    towers: dict[str, Tower],
    material: TrainingData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = {"optimizer": "adamw", "learning_rate": 1e-3, "eps": 1e-3}  # which does not blow up rounding
    plain = first_loss(towers[kind], material, tmp_path / "plain", monkeypatch, **usual)
    saving = first_loss(towers[kind], material, tmp_path / "saving", monkeypatch, **usual, **fields)
    assert saving == pytest.approx(plain, rel=1e-5)
    for one, other in zip(
        vectors(towers[kind], tmp_path / "plain/weights", material),
        vectors(towers[kind], tmp_path / "saving/weights", material),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-3)


def test_parts_of_a_batch_are_refused_where_batch_norms_would_see_each_by_itself(
    material: TrainingData, tmp_path: Path
) -> None:
    resnet = {"image_size": SIDE_PX, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
    tower = OpenClipTower(open_clip="custom", architecture=ARCHITECTURE | {"vision_cfg": resnet})
    with pytest.raises(ParamsError, match=r"part_size: the model has \d+ batch norms"):
        train_towers(tower, recipe(part_size=8), material, CPU, tmp_path)


@pytest.mark.parametrize("kind", ["open_clip", "clip"])
def test_captions_are_cut_while_training_and_read_whole_afterwards(
    kind: str, towers: dict[str, Tower], material: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, Any] = {"on_collapse": "record"}  # an epoch of so few pictures may end anywhere
    whole = first_loss(towers[kind], material, tmp_path / "whole", monkeypatch, **kept)
    cut = first_loss(towers[kind], material, tmp_path / "cut", monkeypatch, caption_tokens=4, **kept)
    more = first_loss(towers[kind], material, tmp_path / "more", monkeypatch, caption_tokens=999, **kept)
    assert whole == more != cut
    loaded = encoders.load(towers[kind], tmp_path / "cut/weights", CPU)
    assert loaded.text is not None
    assert loaded.text.max_tokens == LENGTH


def test_a_siglip_reads_captions_of_full_length_only(
    towers: dict[str, Tower], material: TrainingData, tmp_path: Path
) -> None:
    with pytest.raises(ParamsError, match=f"caption_tokens: someone/tiny-siglip reads its texts padded to {LENGTH}"):
        train_towers(towers["siglip"], recipe(caption_tokens=8), material, CPU, tmp_path)


@pytest.mark.parametrize("kind", ["open_clip", "clip"])
def test_bfloat16_learns_and_leaves_float32_weights(
    kind: str, towers: dict[str, Tower], material: TrainingData, tmp_path: Path
) -> None:
    log = train_towers(towers[kind], recipe(precision="bfloat16", epochs=2), material, CPU, tmp_path).log
    assert log[-1]["loss"] < log[1]["loss"]
    (weights,) = (tmp_path / "weights").glob("*.safetensors")
    assert {value.dtype for value in load_file(weights).values() if value.is_floating_point()} == {torch.float32}


# ---------------------------------------------------------------- again


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_training_ends_with_the_bytes_of_one_that_was_never_stopped(
    kind: str,
    finished: Callable[[str], tuple[Path, TrainingResult]],
    towers: dict[str, Tower],
    material: TrainingData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, last = 0, 30  # of twelve an epoch

    def dies(*args: Any, **named: Any) -> torch.Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()
        if calls > last:
            raise KeyboardInterrupt
        return compute_loss(*args, **named)

    monkeypatch.setattr(contrastive, "compute_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        train_towers(towers[kind], recipe(**USUAL[kind]), material, CPU, tmp_path)
    assert not (tmp_path / "weights").exists()
    calls, last = 0, 48  # the third epoch anew, and three more
    again = train_towers(towers[kind], recipe(**USUAL[kind]), material, CPU, tmp_path)
    assert calls == 48
    assert files(tmp_path / "weights") == files(finished(kind)[0])
    assert again.log == finished(kind)[1].log


def test_other_weights_to_begin_with_are_another_training(
    finished: Callable[[str], tuple[Path, TrainingResult]], material: TrainingData, tmp_path: Path
) -> None:
    words = tokenizer(read_split(material.groups, material.captions, "train").captions)
    torch.manual_seed(1)
    other = open_clip_folder(tmp_path / "other", words)
    trained = train_towers(other, recipe(epochs=1), material, CPU, tmp_path)
    assert trained.log[0] != finished("open_clip")[1].log[0]


def test_a_folder_that_was_written_can_be_trained_on(
    finished: Callable[[str], tuple[Path, TrainingResult]],
    towers: dict[str, Tower],
    material: TrainingData,
    tmp_path: Path,
) -> None:
    for kind, tower in towers.items():
        folder, trained = finished(kind)
        begun = identify_weights(folder)
        longer = tower.model_copy(update={"checkpoint": str(folder)})
        log = train_towers(longer, recipe(**USUAL[kind], epochs=1), material, CPU, tmp_path / kind).log
        assert log[0]["val_mrr"] == pytest.approx(trained.log[-1]["val_mrr"], abs=1e-3)
        assert identify_weights(folder) == begun


# ---------------------------------------------------------------- refused


def test_a_learning_rate_that_blows_up_writes_nothing(
    towers: dict[str, Tower], material: TrainingData, tmp_path: Path
) -> None:
    card = recipe(learning_rate=1e9, optimizer="adamw", warmup_share=0.0)
    with pytest.raises(DataError, match=r"Try a lower train\.learning_rate"):
        train_towers(towers["clip"], card, material, CPU, tmp_path)
    assert not (tmp_path / "weights").exists()


def test_a_model_of_one_tower_is_no_pair(material: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trains the towers of a joint model: name `joint`"):
        ModelCard.model_validate(
            {
                "text": {"transformers": "someone/bert", "pooling": "mean"},
                "train": recipe().model_dump(mode="json"),
            }
        )
