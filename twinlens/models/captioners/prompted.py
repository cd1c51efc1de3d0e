"""Image-text-to-text models of transformers, told by a prompt what to write: Florence-2, Qwen3-VL, SmolVLM2, Gemma 3.

Pixels are made by the library's own processor, from pictures at the size that they have, as each model wants them
another way: tiles, patches by area, a fixed square. The picture's place in the prompt is the chat template's matter
where there is one; else the processor's, or in front.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import simplejpeg
import torch
from jaxtyping import Int64
from jinja2 import TemplateError
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils import logging as transformers_log

from twinlens.config.captioners import CaptionerCard
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.images.transforms import resize, to_numpy, to_tensor
from twinlens.models.encoders.base import count_parameters
from twinlens.models.state_dicts import load_transformers, without_reports
from twinlens.models.weights import UNREADABLE, give_reason, refuse_wordless

transformers_log.disable_progress_bar()

log = logging.getLogger("twinlens")

HERE_ONLY = {"local_files_only": True, "trust_remote_code": False}  # else the library asks on the terminal
PIXEL_SETTINGS = ("processor_config.json", "preprocessor_config.json")
PROBE_PX = (96, 64)  # of a picture that shows what a processor does with a prompt
# What processors raise for a prompt or a picture that they cannot take; a placeholder too many ends an iterator.
REFUSALS = (*UNREADABLE, TypeError, IndexError, AttributeError, StopIteration, TemplateError)
TASK = re.compile(r"<[A-Z_]+>")
WORDS = "pure_text"  # what Florence-2's processor calls tasks that are answered in words, not in boxes
SAMPLING = {"temperature": None, "top_p": None, "top_k": None}  # of checkpoints that sample by default


@dataclass(frozen=True)
class Caption:
    """What a model wrote of a picture."""

    text: str
    tokens: int  # read (prompt and picture) and written
    cut: bool  # at the limit of tokens


@dataclass(frozen=True)
class Prompt:
    """A prompt as a processor takes it, the same for each picture."""

    text: str
    options: dict[str, Any]  # for the processor
    tokens: int = 0  # with a small picture


Inputs = dict[str, torch.Tensor]  # by the names of the model's arguments, a row a picture in most


class PromptedCaptioner:
    """A model with its weights, its processor and its prompt."""

    largest_batch: int | None = None  # that fits into the device's memory, once a larger one did not

    def __init__(self, model: Any, processor: Any, card: CaptionerCard, placement: Placement) -> None:
        """Take a model.

        Raises:
            DataError: the processor cannot bring picture and prompt together, or they leave no room for words.
        """
        self.model = model.eval().to(placement.device, placement.dtype)
        self.processor, self.card, self.placement = processor, card, placement
        self.parameters = count_parameters(model)
        tokenizer = processor.tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        # A decoder goes on from the last token of each row, which has to be one of the prompt's.
        self._goes_on = not model.config.is_encoder_decoder
        tokenizer.padding_side = "left" if self._goes_on else "right"
        refuse_other_tasks(processor, card)
        self._prompt = write_prompt(processor, card)
        self._settings = self._read_settings()
        # Processors make more than a model's generation takes, labels for its training among it.
        takers = (model.forward, model.prepare_inputs_for_generation)
        self._accepted = {name for taker in takers for name in inspect.signature(taker).parameters} - {"labels"}
        self._refuse_long()

    def prepare(self, jpegs: Sequence[bytes]) -> Inputs:
        """Make a batch of the JPEG bytes of shards, on the host; another thread may do so."""
        pictures = [decode_picture(jpeg, self.card.max_side_px) for jpeg in jpegs]
        made = read_pictures(self.processor, self._prompt, pictures)
        return {name: value for name, value in made.items() if name in self._accepted}

    @torch.inference_mode()
    def caption(self, inputs: Inputs) -> list[Caption]:
        """Write one caption per picture of a batch, by greedy or beam search.

        Raises:
            OutOfMemoryError: the batch does not fit into the device's memory; a smaller one may.
        """
        device, dtype = self.placement.device, self.placement.dtype
        sent = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()}
        ids = self.model.generate(**sent, **self._settings).cpu()
        start = 1  # a decoder of its own begins with a token of its own
        if self._goes_on:  # the prompt comes first, unless the model made vectors of it before it went on
            given = inputs["input_ids"]
            start = given.shape[1] if torch.equal(ids[:, : given.shape[1]], given) else 0
        read = inputs["attention_mask"].sum(dim=1).tolist()
        return [self._read_words(row, count) for row, count in zip(ids[:, start:], read, strict=True)]

    def _read_words(self, ids: Int64[torch.Tensor, " tokens"], read: int) -> Caption:
        ends = torch.isin(ids, torch.tensor(self._ends, dtype=ids.dtype)).nonzero()
        written = int(ends[0]) + 1 if len(ends) else len(ids)
        text = self.processor.tokenizer.decode(ids[:written], skip_special_tokens=True)
        return Caption(" ".join(text.split()), read + written, not len(ends) and written >= self.card.max_new_tokens)

    def _read_settings(self) -> dict[str, Any]:
        """Every setting that the card has is given; the rest (a penalty of repetitions, say) is the checkpoint's."""
        generation, tokenizer = self.model.generation_config, self.processor.tokenizer
        if generation.eos_token_id is None:
            generation.eos_token_id = tokenizer.eos_token_id
        if generation.pad_token_id is None:
            generation.pad_token_id = tokenizer.pad_token_id
        generation.max_length = None  # of the checkpoint, which the card's limit takes the place of
        ends = generation.eos_token_id
        self._ends = [ends] if isinstance(ends, int) else list(ends or ())
        card = {"max_new_tokens": self.card.max_new_tokens, "num_beams": self.card.num_beams}
        return {**card, "do_sample": False, **SAMPLING}

    def _refuse_long(self) -> None:
        limit = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        read = self._prompt.tokens if self._goes_on else 1
        if limit is not None and read + self.card.max_new_tokens > limit:
            raise DataError(
                f"the model has room for {limit} tokens; prompt and a small picture take {read}, and max_new_tokens "
                f"asks for {self.card.max_new_tokens}: lower it, or shorten the prompt"
            )


def decode_picture(jpeg: bytes, max_side_px: int | None = None) -> Image.Image:
    """Decode the JPEG bytes of a shard, made smaller where a side is over `max_side_px`."""
    pixels = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
    height, width = pixels.shape[:2]
    if max_side_px is not None and max(height, width) > max_side_px:
        scale = max_side_px / max(height, width)
        sides = max(1, round(height * scale)), max(1, round(width * scale))
        pixels = to_numpy(resize(to_tensor(pixels), *sides))
    return Image.fromarray(pixels)


def refuse_other_tasks(processor: Any, card: CaptionerCard) -> None:
    """Refuse a prompt that begins with the token of a task that is answered with boxes, or with that of no task.

    Florence-2 has tasks, as `<CAPTION>`. From answers in words its processor's `post_process_generation` takes off
    special tokens, which are gone here already, and no more.

    Raises:
        DataError: the prompt names such a task.
    """
    tasks = getattr(processor, "tasks_answer_post_processing_type", None)
    named = TASK.match(card.prompt or "")
    if tasks is None or named is None or tasks.get(named[0]) == WORDS:
        return
    fault = "a task of this model that is answered with places" if named[0] in tasks else "no task of this model"
    known = ", ".join(task for task, kind in tasks.items() if kind == WORDS)
    raise DataError(f"the prompt's {named[0]} is {fault}, and a caption is words: take one of {known}")


def write_prompt(processor: Any, card: CaptionerCard) -> Prompt:
    """Write the card's prompt as the processor takes it, with the picture's place in it.

    Raises:
        DataError: it takes no such prompt, or has no place for a picture or a system text.
    """
    tries = [_write_chat(processor, card)] if processor.chat_template else _write_plainly(processor, card)
    reason = "no token of it is the picture's"
    for prompt in tries:
        try:
            made = read_pictures(processor, prompt, [Image.new("RGB", PROBE_PX)])
        except REFUSALS as error:
            reason = give_reason(error)
            continue
        tokens = [number for number in processor.image_token_ids if number is not None]
        if not tokens or bool(torch.isin(made["input_ids"], torch.tensor(tokens)).any()):
            return replace(prompt, tokens=made["input_ids"].shape[1])
    raise DataError(f"{type(processor).__name__} takes no picture with the prompt {tries[-1].text!r}: {reason}")


def _write_chat(processor: Any, card: CaptionerCard) -> Prompt:
    asked: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": card.prompt}]}
    ]
    if card.system is not None:
        asked.insert(0, {"role": "system", "content": [{"type": "text", "text": card.system}]})
    # A model that thinks aloud first would spend the limit of tokens on that.
    options = {"enable_thinking": False} if "enable_thinking" in str(processor.chat_template) else {}
    try:
        text = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False, **options)
    except REFUSALS as error:
        raise DataError(f"the model's chat template does not take the prompt: {give_reason(error)}") from None
    for name, wanted in (("prompt", card.prompt), ("system", card.system)):
        if wanted is not None and wanted.strip() not in text:
            raise DataError(
                f"the model's chat template leaves out `{name}`: take it off the card, or write one `prompt`"
            )
    start = processor.tokenizer.bos_token
    return Prompt(text, {"add_special_tokens": False} if start and text.startswith(start) else {})


def _write_plainly(processor: Any, card: CaptionerCard) -> list[Prompt]:
    """The prompt of a model without a chat template: with the picture's token in front, or as it is."""
    if card.system is not None:
        raise DataError("the model has no chat template, and so no place for `system`: write all into `prompt`")
    assert card.prompt is not None
    if processor.tokenizer.chat_template:
        log.warning("the model's chat template is for texts only, so the picture and the prompt are given without one")
    token = getattr(processor, "image_token", None)
    texts = [card.prompt] if token is None or token in card.prompt else [f"{token}{card.prompt}", card.prompt]
    return [Prompt(text, {}) for text in texts]


def read_pictures(processor: Any, prompt: Prompt, pictures: Sequence[Image.Image]) -> Any:
    """What the library's processor makes of a prompt with each of some pictures."""
    nested = [[picture] for picture in pictures]
    return processor(
        images=nested, text=[prompt.text] * len(nested), padding=True, return_tensors="pt", **prompt.options
    )


def load(card: CaptionerCard, path: Path, placement: Placement) -> PromptedCaptioner:
    """Load the model in `path`.

    Raises:
        DataError: the folder does not hold an image-text-to-text model with its processor, or the card's prompt is not
            for it.
    """
    try:
        config = AutoConfig.from_pretrained(path, **HERE_ONLY)
    except UNREADABLE as error:
        raise DataError(f"{path} holds no model that the library can load: {give_reason(error)}") from None
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise DataError(
            f"{path} holds a {config.model_type} model, which transformers does not list among those that write of "
            "pictures (image-text-to-text): name one as Florence-2, Qwen3-VL, SmolVLM2, InternVL, PaliGemma or Gemma 3"
        )
    processor = _load_processor(path)
    try:
        model = load_transformers(AutoModelForImageTextToText, path, dtype=placement.dtype, trust_remote_code=False)
    except UNREADABLE as error:
        raise DataError(f"{path} does not hold a {config.model_type} model: {give_reason(error)}") from None
    with without_reports():
        return PromptedCaptioner(model, processor, card, placement)


def _load_processor(path: Path) -> Any:
    if not any((path / name).exists() for name in PIXEL_SETTINGS):
        raise DataError(
            f"{path} lacks {' and '.join(PIXEL_SETTINGS)}, one of which says how the model reads pictures: put the "
            "model's processor beside its weights"
        )
    try:
        processor = AutoProcessor.from_pretrained(path, **HERE_ONLY)
    except ImportError as error:
        missed = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise DataError(f"{path}: the model's processor misses a package: {missed}") from None
    except (*UNREADABLE, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not hold the model's processor: {give_reason(error)}") from None
    parts = {name: getattr(processor, name, None) for name in ("image_processor", "tokenizer")}
    if lacking := [name for name, part in parts.items() if part is None]:
        raise DataError(f"{path} holds a {type(processor).__name__} without {lacking[0]}: its files are incomplete")
    refuse_wordless(processor.tokenizer, path)
    return processor
