from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessor,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    Tipsv2Config,
    Tipsv2ImageProcessor,
    Tipsv2Model,
)

from tests.strangers import CODE, save_stranger
from tests.tiny import CPU, TEXTS, photos, sizes, special_tokens, spread, tokenizer
from twinlens.config.models import TransformersTower
from twinlens.core.errors import DataError, ParamsError
from twinlens.models import encoders
from twinlens.models.encoders.base import LoadedEncoders, TextEncoder

POSITIONS = 18
LONG = "a red car in the snow " * 6
VISION = sizes(image_size=32, patch_size=16)


def words_of(folder: Path) -> PreTrainedTokenizerFast:
    found: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return found


def save_clip(folder: Path) -> CLIPModel:
    words = tokenizer()
    text = sizes(vocab_size=len(words), max_position_embeddings=POSITIONS, **special_tokens(words))
    model = spread(CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)))
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for part in (model, words, processor):
        part.save_pretrained(folder)
    return model


def save_siglip(folder: Path) -> SiglipModel:
    words = tokenizer()
    text = sizes(vocab_size=len(words), max_position_embeddings=POSITIONS, projection_size=32, **special_tokens(words))
    model = spread(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)))
    for part in (model, words, SiglipImageProcessor(size={"height": 32, "width": 32})):
        part.save_pretrained(folder)
    return model


def save_metaclip2(folder: Path) -> Any:
    words = tokenizer()
    text = sizes(vocab_size=len(words), max_position_embeddings=POSITIONS, **special_tokens(words))
    model = spread(MetaClip2Model(MetaClip2Config(text_config=text, vision_config=VISION, projection_dim=16)))
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for part in (model, words, processor):
        part.save_pretrained(folder)
    return model


def save_tipsv2(folder: Path) -> Any:
    words = tokenizer()
    text = sizes(vocab_size=len(words), max_position_embeddings=POSITIONS, pad_token_id=words.pad_token_id)
    model = spread(Tipsv2Model(Tipsv2Config(text_config=text, vision_config=VISION | {"mlp_ratio": 2})))
    for part in (model, words, Tipsv2ImageProcessor(size={"height": 32, "width": 32})):
        part.save_pretrained(folder)
    return model


def save_chinese_clip(folder: Path) -> Any:
    words = tokenizer()
    text = sizes(vocab_size=len(words), max_position_embeddings=POSITIONS, pad_token_id=words.pad_token_id)
    model = spread(ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)))
    processor = ChineseCLIPImageProcessor(
        size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=False
    )
    for part in (model, words, processor):
        part.save_pretrained(folder)
    return model


def save_altclip(folder: Path) -> Any:
    words = tokenizer()
    places = POSITIONS + int(words.pad_token_id) + 1  # the first are the padding's
    text = sizes(vocab_size=len(words), max_position_embeddings=places, pad_token_id=words.pad_token_id, project_dim=16)
    model = spread(AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)))
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for part in (model, words, processor):
        part.save_pretrained(folder)
    return model


def save_bert(folder: Path) -> BertModel:
    words = tokenizer()
    model = spread(BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=POSITIONS, **sizes())))
    for part in (model, words):
        part.save_pretrained(folder)
    return model


def card(folder: Path, **fields: Any) -> TransformersTower:
    return TransformersTower(transformers="someone/tiny", checkpoint=str(folder), **fields)


def load(tower: TransformersTower) -> LoadedEncoders:
    return encoders.load(tower, encoders.locate(tower), CPU)


def text_of(tower: TransformersTower) -> TextEncoder:
    text = load(tower).text
    assert text is not None
    return text


def encoded(text: TextEncoder, texts: list[str]) -> torch.Tensor:
    with torch.inference_mode():
        return text.encode(texts)


def pooled(output: Any) -> torch.Tensor:
    """The vectors that the library gives, whatever its release wraps them in."""
    found: torch.Tensor = getattr(output, "pooler_output", output)
    return found


# ---------------------------------------------------------------- both towers


@pytest.mark.parametrize("save", [save_clip, save_siglip, save_altclip])
def test_picture_vectors_are_the_librarys_own(save: Any, tmp_path: Path) -> None:
    model = save(tmp_path)
    image = load(card(tmp_path)).image
    assert image is not None
    pictures = photos(3, 32)
    pixels = transformers.AutoImageProcessor.from_pretrained(tmp_path)(list(pictures), return_tensors="pt").pixel_values
    with torch.inference_mode():
        found, wanted = image.encode(pictures), pooled(model.get_image_features(pixel_values=pixels))
    assert (found - wanted).abs().max() < 1e-5
    assert torch.linalg.matrix_rank(found - found.mean(dim=0), atol=1e-3) == 2


def test_clip_text_vectors_are_the_librarys_own(tmp_path: Path) -> None:
    model = save_clip(tmp_path)
    tokens = words_of(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        wanted = pooled(model.get_text_features(**tokens))
    found = encoded(text_of(card(tmp_path)), TEXTS)
    assert (found - wanted).abs().max() < 1e-5
    assert torch.linalg.matrix_rank(found, atol=1e-3) == len(TEXTS)


def test_siglip_texts_are_padded_to_full_length_and_the_padding_is_not_masked(tmp_path: Path) -> None:
    model = save_siglip(tmp_path)
    words = words_of(tmp_path)
    assert "attention_mask" in words(TEXTS)  # which the models were trained without
    tokens = words(TEXTS, padding="max_length", max_length=POSITIONS, return_tensors="pt").input_ids
    shorter = words(TEXTS, padding="longest", return_tensors="pt").input_ids
    with torch.inference_mode():
        wanted = pooled(model.get_text_features(input_ids=tokens))
        wrong = pooled(model.get_text_features(input_ids=shorter))
    found = encoded(text_of(card(tmp_path)), TEXTS)
    assert (found - wanted).abs().max() < 1e-5
    assert (found - wrong).abs().max() > 0.1


@pytest.mark.parametrize("save", [save_clip, save_siglip, save_altclip])
def test_a_text_has_the_same_vector_in_any_batch(save: Any, tmp_path: Path) -> None:
    save(tmp_path)
    text = text_of(card(tmp_path))
    apart = torch.cat([encoded(text, [one]) for one in TEXTS])
    assert (encoded(text, TEXTS) - apart).abs().max() < 1e-5


def test_towers_count_their_own_parameters_only(tmp_path: Path) -> None:
    model = save_clip(tmp_path)
    towers = load(card(tmp_path))
    assert towers.image is not None and towers.text is not None
    assert towers.image.parameters == sum(p.numel() for p in model.vision_model.parameters())
    assert towers.text.parameters == sum(p.numel() for p in model.text_model.parameters())


# ---------------------------------------------------------------- text only


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_is_what_its_name_says(pooling: Literal["mean", "cls"], tmp_path: Path) -> None:
    model, words = save_bert(tmp_path), tokenizer()
    wanted = []
    for text in TEXTS:  # one at a time, so that there is no padding to get wrong
        with torch.inference_mode():
            states = model(**words([text], return_tensors="pt")).last_hidden_state[0]
        wanted.append(states.mean(dim=0) if pooling == "mean" else states[0])
    found = encoded(text_of(card(tmp_path, pooling=pooling)), TEXTS)
    assert (found - torch.stack(wanted)).abs().max() < 1e-5


def test_the_poolings_differ_so_that_telling_them_apart_matters(tmp_path: Path) -> None:
    save_bert(tmp_path)
    mean, cls = (encoded(text_of(card(tmp_path, pooling=pooling)), TEXTS) for pooling in ("mean", "cls"))
    assert (mean - cls).abs().max() > 0.1


def test_a_text_model_without_a_pooling_is_refused(tmp_path: Path) -> None:
    save_bert(tmp_path)
    with pytest.raises(ParamsError, match="no pair of towers: as a text tower it needs `pooling: mean` or `cls`"):
        load(card(tmp_path))


def test_the_prompt_stands_before_every_text(tmp_path: Path) -> None:
    save_bert(tmp_path)
    plain, prompted = (text_of(card(tmp_path, pooling="mean", prompt=prompt)) for prompt in ("", "there is "))
    assert torch.equal(encoded(prompted, ["a dog"]), encoded(plain, ["there is a dog"]))
    assert prompted.token_counts(["a dog"]) == [6]
    assert plain.token_counts(["a dog"]) == [4]


@pytest.mark.parametrize("save", [save_clip, save_siglip, save_altclip, save_bert])
def test_tokens_are_counted_before_a_text_is_cut_and_what_is_cut_changes_nothing(save: Any, tmp_path: Path) -> None:
    save(tmp_path)
    text = text_of(card(tmp_path, pooling="mean" if save is save_bert else None))
    assert text.max_tokens == POSITIONS
    assert text.token_counts(["a dog", LONG]) == [4, 38]
    assert torch.equal(encoded(text, [LONG]), encoded(text, [LONG + "a house"]))


def test_a_tokenizer_may_read_less_than_the_model(tmp_path: Path) -> None:
    save_bert(tmp_path)
    words = tokenizer()
    words.model_max_length = 8
    words.save_pretrained(tmp_path)
    assert text_of(card(tmp_path, pooling="cls")).max_tokens == 8


# ---------------------------------------------------------------- weights that are not all there


def without(folder: Path, name: str) -> None:
    """Take a part out of the saved weights."""
    path = folder / "model.safetensors"
    state = load_file(path)
    assert any(name in key for key in state)
    save_file({key: value for key, value in state.items() if name not in key}, path, metadata={"format": "pt"})


def test_a_part_that_is_not_in_the_files_is_refused_rather_than_filled_with_random_numbers(tmp_path: Path) -> None:
    save_clip(tmp_path)
    without(tmp_path, "visual_projection.weight")
    with pytest.raises(DataError, match=r"lacks 1 of the model.s \d+ .* first is visual_projection\.weight"):
        load(card(tmp_path))


def test_a_text_model_may_lack_the_pooler_that_is_not_used(tmp_path: Path) -> None:
    save_bert(tmp_path)
    whole = encoded(text_of(card(tmp_path, pooling="mean")), TEXTS)
    without(tmp_path, "pooler.")
    assert torch.equal(encoded(text_of(card(tmp_path, pooling="mean")), TEXTS), whole)


@pytest.mark.parametrize("absent", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_a_folder_that_lacks_a_file_is_refused(absent: str, tmp_path: Path) -> None:
    save_clip(tmp_path)
    (tmp_path / absent).unlink()
    if absent == "tokenizer.json":
        (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(DataError, match=r"someone/tiny could not be loaded from|lacks the tokenizer's files"):
        load(card(tmp_path))


def test_weights_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    save_clip(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="someone/tiny could not be loaded from"):
        load(card(tmp_path))


def test_random_weights_need_only_the_configuration(tmp_path: Path) -> None:
    save_clip(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    towers = encoders.load(card(tmp_path), tmp_path, CPU, random_weights=True)
    assert towers.image is not None and towers.text is not None
    assert encoded(towers.text, TEXTS).shape == (len(TEXTS), 16)


# ---------------------------------------------------------------- a stranger's code


def test_a_strangers_code_does_not_run_here(tmp_path: Path) -> None:
    flag = tmp_path / "it ran"
    folder = save_stranger(tmp_path / "stranger", f"open({str(flag)!r}, 'w')\n{CODE}")
    for tower in (
        card(folder),
        card(folder, trust_remote_code=True),
    ):  # as a card gives it, the latter is an OwnCodeTower
        with pytest.raises(DataError, match=r"someone/tiny could not be loaded from .*`trust_remote_code: true`"):
            load(tower)
    assert not flag.exists()


def test_a_strangers_code_is_pinned_or_the_card_is_refused() -> None:
    with pytest.raises(ValueError, match="pin `revision` and `code_revision`"):
        TransformersTower(transformers="someone/tiny", trust_remote_code=True)
    assert json.loads(TransformersTower(transformers="someone/tiny").model_dump_json())["trust_remote_code"] is False
