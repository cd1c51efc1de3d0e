"""Vision-language models, tiny and with random weights, against the words that transformers' own generation gives."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, ProcessorMixin

from tests.models.captioners.vision_language import BUILDERS, OF_CHATS, PROMPT, SYSTEM, build, save
from tests.tiny import CPU, jpegs, tokenizer, write_json
from twinlens.config.captioners import CaptionerCard
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.models.captioners import prompted
from twinlens.models.captioners.prompted import Caption, PromptedCaptioner, decode_picture
from twinlens.models.locations import captioners as locations

LONGEST = 8
PLAIN = (
    "internvl",
    "llava",
    "idefics3",
    "qwen3_vl",
    "gemma3",
)  # without their chat template; a picture's token goes in front
FILES = [*jpegs(3), *jpegs(3, 96, 64)[1:]]  # of two shapes


def card(folder: Path, **fields: Any) -> CaptionerCard:
    usual = {"captioner": "transformers", "checkpoint": str(folder), "prompt": PROMPT, "max_new_tokens": LONGEST}
    return CaptionerCard.model_validate(usual | fields)


def load(folder: Path, placement: Placement = CPU, **fields: Any) -> PromptedCaptioner:
    described = card(folder, **fields)
    return prompted.load(described, locations.locate(described), placement)


def prompt_of(kind: str) -> str:
    return "<CAPTION>" if kind == "florence2" else PROMPT


def texts(captioner: PromptedCaptioner, files: list[bytes]) -> list[str]:
    return [caption.text for caption in captioner.caption(captioner.prepare(files))]


def own_words(kind: str, model: Any, processor: Any, jpeg: bytes, system: str | None = None, **settings: Any) -> str:
    """What the library itself says of one picture, the way that its documentation shows."""
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
    if processor.chat_template:
        content = [{"type": "image", "image": picture}, {"type": "text", "text": PROMPT}]
        talk = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
        inputs = processor.apply_chat_template(
            [*talk, {"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    else:
        text = prompt_of(kind) if kind == "florence2" else processor.image_token + PROMPT
        inputs = processor(images=[picture], text=text, return_tensors="pt")
        inputs.pop("labels", None)
    ends = {"eos_token_id": processor.tokenizer.eos_token_id, "pad_token_id": processor.tokenizer.pad_token_id}
    settings = {"max_new_tokens": LONGEST, "do_sample": False} | ends | settings
    ids = model.generate(**inputs, **settings)
    ids = ids if kind == "florence2" else ids[:, inputs["input_ids"].shape[1] :]
    return " ".join(processor.batch_decode(ids, skip_special_tokens=True)[0].split())


# ---------------------------------------------------------------- words


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("kind", BUILDERS)
def test_captions_are_the_librarys_own_alone_and_in_batches(kind: str, num_beams: int, tmp_path: Path) -> None:
    model, processor = save(kind, tmp_path)
    wanted = [own_words(kind, model, processor, jpeg, num_beams=num_beams) for jpeg in FILES]
    captioner = load(tmp_path, num_beams=num_beams, prompt=prompt_of(kind))
    assert texts(captioner, FILES) == wanted
    assert [texts(captioner, [jpeg])[0] for jpeg in FILES] == wanted
    assert len(set(wanted)) >= 3  # the words depend on the picture, so the comparison says something


@pytest.mark.parametrize("kind", PLAIN)
def test_a_model_without_a_chat_template_has_the_picture_in_front_of_the_prompt(kind: str, tmp_path: Path) -> None:
    model, processor = save(kind, tmp_path, chat=False)
    wanted = [own_words(kind, model, processor, jpeg) for jpeg in FILES[:2]]
    captioner = load(tmp_path)
    assert texts(captioner, FILES[:2]) == wanted
    placed = load(tmp_path, prompt=f"{processor.image_token}{PROMPT}")  # by the card itself
    assert texts(placed, FILES[:2]) == wanted


def test_a_chat_template_of_the_tokenizer_alone_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It has no place for pictures, and a model that chats writes worse without one."""
    _, processor = save("llava", tmp_path, chat=False)
    load(tmp_path)
    assert not caplog.text
    processor.tokenizer.chat_template = "{{ messages[0].content }}"
    captioner = PromptedCaptioner(load(tmp_path).model, processor, card(tmp_path), CPU)
    assert captioner._prompt.text == f"<image>{PROMPT}"
    assert "the model's chat template is for texts only" in caplog.text


def test_prompt_and_system_text_decide_the_words(tmp_path: Path) -> None:
    model, processor = save("llava", tmp_path)
    plain, other = texts(load(tmp_path), FILES), texts(load(tmp_path, prompt="a green tree at night"), FILES)
    told = texts(load(tmp_path, system=SYSTEM), FILES)
    assert plain != other
    assert told != plain
    assert told == [own_words("llava", model, processor, jpeg, system=SYSTEM) for jpeg in FILES]


def test_tokens_are_those_of_prompt_picture_and_words_without_padding(tmp_path: Path) -> None:
    save("qwen3_vl", tmp_path)
    captioner = load(tmp_path, max_new_tokens=3)
    small, large = (captioner.prepare([jpeg]) for jpeg in (FILES[0], FILES[-1]))
    both = captioner.prepare([FILES[0], FILES[-1]])
    lengths = [small["input_ids"].shape[1], large["input_ids"].shape[1]]
    assert lengths[0] < lengths[1]  # at its own size: 48 x 40 and 96 x 64
    assert both["attention_mask"].sum(dim=1).tolist() == lengths
    assert both["attention_mask"][0, 0] == 0  # padded on the left: a decoder goes on from the end
    assert [caption.tokens for caption in captioner.caption(both)] == [length + 3 for length in lengths]


def test_a_caption_that_ends_by_itself_is_not_cut(tmp_path: Path) -> None:
    save("llava", tmp_path)
    captioner = load(tmp_path)
    ids = torch.tensor([7, 8, captioner.processor.tokenizer.eos_token_id, 0, 0, 0, 0, 0])
    words = captioner.processor.tokenizer.decode([7, 8])
    assert captioner._read_words(ids, 10) == Caption(words, 13, cut=False)
    assert captioner._read_words(torch.tensor([7, 8] * 4), 10) == Caption(" ".join([words] * 4), 18, cut=True)
    assert captioner._read_words(ids[:0], 10) == Caption("", 10, cut=False)


def test_settings_of_the_checkpoint_that_draw_words_at_random_count_for_nothing(tmp_path: Path) -> None:
    save("qwen3_vl", tmp_path)
    wanted = texts(load(tmp_path), FILES)
    drawn = {"do_sample": True, "temperature": 5.0, "top_k": 40, "top_p": 0.9, "max_length": 5}
    write_json(
        json.loads((tmp_path / "generation_config.json").read_text()) | drawn, tmp_path / "generation_config.json"
    )
    torch.manual_seed(3)
    assert texts(load(tmp_path), FILES) == wanted
    write_json({"repetition_penalty": 50.0}, tmp_path / "generation_config.json")  # but its penalty is part of it
    assert texts(load(tmp_path), FILES) != wanted


def test_weights_and_pixels_are_of_the_placements_kind(tmp_path: Path) -> None:
    save("qwen3_vl", tmp_path)
    captioner = load(tmp_path, Placement(torch.device("cpu"), torch.bfloat16))
    assert {parameter.dtype for parameter in captioner.model.parameters()} == {torch.bfloat16}
    assert all(isinstance(text, str) for text in texts(captioner, FILES))


def test_a_model_that_thinks_aloud_is_told_not_to(tmp_path: Path) -> None:
    _, processor = save("llava", tmp_path)
    loud = processor.chat_template + "{% if enable_thinking is not defined or enable_thinking %} night{% endif %}"
    (tmp_path / "chat_template.jinja").write_text(loud)
    assert load(tmp_path)._prompt.text == "user : <image> a red car assistant :"


# ---------------------------------------------------------------- pictures


def test_pictures_are_shrunk_to_the_longer_side_that_the_card_allows(tmp_path: Path) -> None:
    [wide] = jpegs(1, 96, 64)
    assert decode_picture(wide).size == (96, 64)
    assert decode_picture(wide, 96).size == (96, 64)
    assert decode_picture(wide, 48).size == (48, 32)
    assert decode_picture(wide, 1).size == (1, 1)
    save("qwen3_vl", tmp_path)
    whole, small = load(tmp_path).prepare([wide]), load(tmp_path, max_side_px=48).prepare([wide])
    assert whole["image_grid_thw"].tolist() == [[1, 8, 12]]  # patches of 8 px
    assert small["image_grid_thw"].tolist() == [[1, 4, 6]]


def test_pixels_are_those_of_the_shard() -> None:
    [wide] = jpegs(1, 96, 64)
    assert np.array_equal(np.asarray(decode_picture(wide)), np.asarray(Image.open(io.BytesIO(wide)).convert("RGB")))


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"prompt": "<OD>"},
            r"<OD> is a task of this model that is answered with places.*<CAPTION>, <DETAILED_CAPTION>",
        ),
        ({"prompt": "<CAPTIONS>"}, r"<CAPTIONS> is no task of this model"),
        ({"prompt": "<CAPTION> please"}, r"takes no picture with the prompt '<CAPTION> please'.*only content"),
        ({"prompt": "<CAPTION>", "system": "be brief"}, "no chat template, and so no place for `system`"),
        ({"prompt": "<CAPTION>", "max_new_tokens": 64}, "room for 64 tokens.*lower it"),
    ],
)
def test_a_prompt_that_the_model_cannot_take_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    save("florence2", tmp_path)
    with pytest.raises(DataError, match=message):
        load(tmp_path, **fields)


def test_a_system_text_that_the_template_leaves_out_is_refused(tmp_path: Path) -> None:
    _, processor = save("llava", tmp_path)
    template = processor.chat_template
    for fault, message in (
        ("{% for message in messages[-1:] %}" + template.partition("%}")[2], "leaves out `system`"),
        ("{{ raise_exception('System role not supported') }}", "does not take the prompt: System role not supported"),
        (template.replace("<image>", ""), "takes no picture with the prompt"),
    ):
        (tmp_path / "chat_template.jinja").write_text(fault)
        with pytest.raises(DataError, match=message):
            load(tmp_path, system=SYSTEM)


def test_a_model_that_takes_no_pictures_is_refused(tmp_path: Path) -> None:
    BertModel(BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        tmp_path
    )
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"holds a bert model, which .*image-text-to-text.*Qwen3-VL"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (("processor_config.json",), "lacks processor_config.json and preprocessor_config.json, one of which says how"),
        (("tokenizer.json", "tokenizer_config.json"), "tokenizer"),
        (("model.safetensors",), "does not hold a llava model"),
        (("config.json",), "holds no model that the library can load"),
    ],
)
def test_a_checkpoint_that_lacks_a_part_is_refused_with_what_is_missing(
    lost: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    save("llava", tmp_path)
    for name in lost:
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save("llava", tmp_path)
    model, _ = build("paligemma")
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"lacks \d+ of the model's|holds .* where its config.json asks for"):
        load(tmp_path)


def test_code_of_the_checkpoints_own_is_not_run(tmp_path: Path) -> None:
    save("llava", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {
        "model_type": "another",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"},
    }
    write_json(config, tmp_path / "config.json")
    (tmp_path / "own.py").write_text("raise SystemExit('was run')")
    with pytest.raises(DataError, match="holds no model that the library can load"):
        load(tmp_path)


def test_a_package_that_a_processor_misses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save("llava", tmp_path)

    def miss(*args: Any, **kwargs: Any) -> None:
        raise ImportError("Package `num2words` is required to run SmolVLM processor.\nInstall it.")

    monkeypatch.setattr(ProcessorMixin, "from_pretrained", classmethod(miss))
    with pytest.raises(DataError, match="misses a package: Package `num2words` is required"):
        load(tmp_path)


def test_models_with_a_template_are_those_that_chat() -> None:
    assert {kind for kind in BUILDERS if build(kind)[1].chat_template} == set(OF_CHATS)


# ---------------------------------------------------------------- cards


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": None}, "`captioner: transformers` needs `prompt`"),
        ({"prompt": "  "}, "`captioner: transformers` needs `prompt`"),
        ({"checkpoint": None}, "name a source"),
        ({"url": "http://localhost:8000"}, "`url` goes with `captioner: endpoint`"),
        ({"captioner": "blip"}, "`prompt` goes with `captioner: transformers` or `endpoint`"),
        ({"captioner": "git", "prompt": None, "max_side_px": 64}, "`max_side_px` goes with `captioner: transformers`"),
        ({"max_side_px": 0}, "greater than or equal to 1"),
    ],
)
def test_cards_that_cannot_be_are_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        card(tmp_path, **fields)
