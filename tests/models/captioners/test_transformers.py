"""BLIP, BLIP-2 and GIT, tiny and with random weights, against the words that transformers' own generation gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
)

from tests.tiny import CPU, REVISION, jpegs, photos, sizes, special_tokens, spread, tokenizer
from twinlens.config.captioners import CaptionerCard
from twinlens.core import paths
from twinlens.core.device import Placement
from twinlens.core.errors import DataError, FetchError
from twinlens.images.transforms import batch_pixels
from twinlens.models.captioners import transformers as captioners
from twinlens.models.captioners.transformers import Captioner
from twinlens.models.image_processor import read_pixel_spec
from twinlens.models.locations import captioners as locations

SIDE_PX = 32
LONGEST = 8  # new tokens
VISION = sizes(image_size=SIDE_PX, patch_size=16)
SQUASH = {"height": SIDE_PX, "width": SIDE_PX}
KINDS = ["blip", "blip2", "git"]
BF16 = Placement(torch.device("cpu"), torch.bfloat16)


def build(kind: str) -> tuple[Any, Any]:
    """A model of the real architecture with random weights, and the library's own processor for it."""
    words = tokenizer()
    if kind == "blip":
        text = sizes(vocab_size=len(words), max_position_embeddings=24, **special_tokens(words))
        config = BlipConfig(text_config=text | {"sep_token_id": words.eos_token_id}, vision_config=VISION)
        return BlipForConditionalGeneration(config), BlipProcessor(BlipImageProcessor(size=SQUASH), words)
    if kind == "blip2":
        processor = Blip2Processor(BlipImageProcessor(size=SQUASH), words, num_query_tokens=4)
        common = sizes(vocab_size=len(words))  # with the picture's token, that the processor has added
        opt = common | {"model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 40}
        config = Blip2Config(
            text_config=opt | special_tokens(words),
            vision_config=VISION,
            qformer_config=common,
            num_query_tokens=4,
            image_token_index=words.convert_tokens_to_ids("<image>"),
        )
        return Blip2ForConditionalGeneration(config), processor
    config = GitConfig(
        vision_config=VISION, vocab_size=len(words), max_position_embeddings=40, **sizes(), **special_tokens(words)
    )
    pixels = CLIPImageProcessor(size={"shortest_edge": SIDE_PX}, crop_size=SQUASH)
    return GitForCausalLM(config), GitProcessor(pixels, words)


def save(kind: str, folder: Path) -> tuple[Any, Any]:
    """The same, written in transformers' own layout."""
    model, processor = build(kind)
    spread(model, scale=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def card(kind: str, folder: Path, **fields: Any) -> CaptionerCard:
    return CaptionerCard.model_validate(
        {"captioner": kind, "checkpoint": str(folder), "max_new_tokens": LONGEST} | fields
    )


def load(kind: str, folder: Path, placement: Placement = CPU, **fields: Any) -> Captioner:
    described = card(kind, folder, **fields)
    return captioners.load(described, locations.locate(described), placement)


def own_words(model: Any, processor: Any, pixels: torch.Tensor, **settings: Any) -> list[str]:
    """What the library itself says."""
    settings = {"max_new_tokens": LONGEST, "num_beams": 1, "do_sample": False} | settings
    with torch.inference_mode():
        ids = model.generate(pixel_values=pixels, **settings)
    return [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]


# ---------------------------------------------------------------- words


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_the_librarys_own_for_the_librarys_own_pixels(kind: str, num_beams: int, tmp_path: Path) -> None:
    model, processor = save(kind, tmp_path)
    pixels = processor(images=list(photos(6, SIDE_PX)), return_tensors="pt").pixel_values
    wanted = own_words(model, processor, pixels, num_beams=num_beams)
    found = load(kind, tmp_path, num_beams=num_beams).caption(photos(6, SIDE_PX))
    assert found == wanted
    assert len(set(found)) >= 5  # the words depend on the picture, so the comparison says something


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_another_shape_is_read_as_the_librarys_processor_reads_it(kind: str, tmp_path: Path) -> None:
    model, processor = save(kind, tmp_path)
    captioner = load(kind, tmp_path)
    files = jpegs(6, 96, 64)
    wanted = own_words(model, processor, processor(images=pictures_of(files), return_tensors="pt").pixel_values)
    assert captioner.caption(batch_pixels(files, captioner.pixels)) == wanted


@pytest.mark.parametrize(
    "fault", [{"image_mean": [0.9] * 3}, {"do_normalize": False}, {"size": {"height": 64, "width": 16}}]
)
def test_a_processor_that_makes_other_pixels_than_its_settings_say_is_refused(
    fault: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("blip", tmp_path)
    right = read_pixel_spec(BlipImageProcessor(size=SQUASH))
    monkeypatch.setattr(captioners, "read_pixel_spec", lambda processor: right)  # what we take it to do
    load("blip", tmp_path)
    BlipImageProcessor(**({"size": SQUASH} | fault)).save_pretrained(tmp_path)
    for other in tmp_path.glob("processor_config.json"):
        other.unlink()
    with pytest.raises(DataError, match=r"makes other pixels of a test picture|pixels where its settings say"):
        load("blip", tmp_path)


def pictures_of(files: list[bytes]) -> list[torch.Tensor]:
    """Files as the library is given them: decoded, and as large as they are."""
    whole = read_pixel_spec(BlipImageProcessor(size={"height": 64, "width": 96}))
    return list(batch_pixels(files, whole))


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_the_words_of_its_pictures_alone(kind: str, num_beams: int, tmp_path: Path) -> None:
    save(kind, tmp_path)
    captioner = load(kind, tmp_path, num_beams=num_beams)
    pictures = photos(6, SIDE_PX)
    alone = [captioner.caption(picture[None])[0] for picture in pictures]
    assert captioner.caption(pictures) == alone
    assert captioner.caption(pictures.flip(0)) == alone[::-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_pictures_give_the_same_words_whatever_was_random_before(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    torch.manual_seed(1)
    first = load(kind, tmp_path).caption(photos(4, SIDE_PX))
    torch.manual_seed(2)
    assert load(kind, tmp_path).caption(photos(4, SIDE_PX)) == first


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_words_without_special_tokens(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    known = set(tokenizer().get_vocab())
    special = set(load(kind, tmp_path).tokenizer.all_special_tokens)
    assert special >= {"<pad>", "<start>", "<end>"}
    for text in load(kind, tmp_path).caption(photos(6, SIDE_PX)):
        assert set(text.split()) <= known - special
        assert text


def test_white_space_is_that_of_one_line(tmp_path: Path) -> None:
    save("git", tmp_path)
    captioner = load("git", tmp_path)
    plain = captioner.caption(photos(4, SIDE_PX))
    words = captioner.tokenizer.get_vocab()
    broken = {word: f" \n{word}\t " if word in ("the", "dog", "red") else word for word in words}
    captioner.tokenizer = type(tokenizer())(
        tokenizer_object=_renamed(broken, words), pad_token="<pad>", bos_token="<start>", eos_token="<end>"
    )
    raw = captioner.tokenizer.batch_decode([[words["the"], words["dog"]]])
    assert "\n" in raw[0] and "\t" in raw[0]
    assert captioner.caption(photos(4, SIDE_PX)) == plain


def _renamed(names: dict[str, str], numbers: dict[str, int]) -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({names[word]: number for word, number in numbers.items()}, unk_token="<unk>"))


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_tokens_are_made_than_the_card_allows(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    pictures = photos(6, SIDE_PX)
    short, long = (load(kind, tmp_path, max_new_tokens=count).caption(pictures) for count in (3, LONGEST))
    assert max(len(text.split()) for text in short) == 3  # a word a token
    assert max(len(text.split()) for text in long) == LONGEST
    assert all(whole.startswith(start) for whole, start in zip(long, short, strict=True))  # greedy search


@pytest.mark.parametrize("kind", KINDS)
def test_more_beams_find_other_words(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    greedy, searched = (load(kind, tmp_path, num_beams=beams).caption(photos(6, SIDE_PX)) for beams in (1, 3))
    assert greedy != searched


# ---------------------------------------------------------------- placement


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_runs_and_makes_words(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    captioner = load(kind, tmp_path, BF16)
    assert {p.dtype for p in captioner.model.parameters()} == {torch.bfloat16}
    texts = captioner.caption(photos(4, SIDE_PX))
    assert len(texts) == 4
    assert all(set(text.split()) <= set(tokenizer().get_vocab()) for text in texts)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_saved_in_half_precision_are_computed_with_as_the_placement_says(kind: str, tmp_path: Path) -> None:
    model, processor = save(kind, tmp_path)
    model.half().save_pretrained(tmp_path)
    captioner = load(kind, tmp_path)
    assert {p.dtype for p in captioner.model.parameters()} == {torch.float32}
    pixels = processor(images=list(photos(4, SIDE_PX)), return_tensors="pt").pixel_values
    assert captioner.caption(photos(4, SIDE_PX)) == own_words(model.float(), processor, pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_counted_once(kind: str, tmp_path: Path) -> None:
    model, _ = save(kind, tmp_path)
    assert load(kind, tmp_path).parameters == sum(p.numel() for p in model.parameters())


def test_the_model_does_not_drop_out(tmp_path: Path) -> None:
    save("git", tmp_path)
    captioner = load("git", tmp_path)
    assert captioner.model.config.hidden_dropout_prob > 0
    assert not any(module.training for module in captioner.model.modules())


# ---------------------------------------------------------------- folders that do not hold such a model


@pytest.mark.parametrize(("kind", "other"), [(k, o) for k in KINDS for o in [*KINDS, "clip"] if o != k])
def test_another_kind_of_model_is_refused(kind: str, other: str, tmp_path: Path) -> None:
    words = tokenizer()
    if other == "clip":
        text = sizes(vocab_size=len(words), max_position_embeddings=18, **special_tokens(words))
        CLIPModel(CLIPConfig(text_config=text, vision_config=VISION)).save_pretrained(tmp_path)
        words.save_pretrained(tmp_path)
        CLIPImageProcessor().save_pretrained(tmp_path)
    else:
        save(other, tmp_path)
    with pytest.raises(DataError, match=f"holds a {other.replace('blip2', 'blip-2')} model, the card says {kind}"):
        load(kind, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("absent", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_folder_that_lacks_a_file_is_refused(kind: str, absent: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    (tmp_path / absent).unlink()
    with pytest.raises(DataError, match=f"does not hold a {kind} model|lacks the tokenizer's files"):
        load(kind, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_any_file_of_a_tokenizer_is_refused(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"does not hold a {kind} model|lacks the tokenizer's files"):
        load(kind, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_file_that_is_cut_short_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"does not hold a {kind} model"):
        load(kind, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_that_is_not_in_the_files_is_refused(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in state if name.endswith("layers.1.mlp.fc1.weight"))
    del state[gone]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 1 of the model's \d+ parameters, .*layers\.1\.mlp\.fc1\.weight"):
        load(kind, tmp_path)


@pytest.mark.parametrize("content", ["an empty folder", "a file"])
def test_what_holds_no_model_at_all_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.mkdir() if content == "an empty folder" else path.write_text("a web page about weights")
    with pytest.raises(DataError, match="does not hold a git model"):
        load("git", path)


# ---------------------------------------------------------------- where the weights are


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="nowhere is not there"):
        locations.locate(card("blip", tmp_path / "nowhere"))


def test_a_checkpoint_may_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_CAPTIONERS", str(tmp_path))
    (tmp_path / "mine").mkdir()
    found = locations.locate(card("blip", Path("$MY_CAPTIONERS/mine"), hub="someone/tiny", revision=REVISION))
    assert found == paths.expand(str(tmp_path / "mine"))


def test_every_kind_of_the_cards_has_a_class_of_the_library() -> None:
    kinds = set(CaptionerCard.model_fields["captioner"].annotation.__args__)  # type: ignore[union-attr]
    named = kinds - {"none", "endpoint", "transformers"}  # the last names its class by its config.json
    assert named == set(captioners.CLASSES)
    assert all(hasattr(transformers, name) for name in captioners.CLASSES.values())
