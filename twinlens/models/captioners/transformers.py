"""BLIP, BLIP-2 and GIT, which differ in their class and in nothing else that matters here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Int64, UInt8
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
from transformers.utils import logging as transformers_log

from twinlens.config.captioners import CaptionerCard
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.models.captioners.blip import BlipGenerator, read_blip_settings
from twinlens.models.encoders.base import count_parameters, normalise_pixels, place
from twinlens.models.image_processor import read_pixel_spec, refuse_other_pixels
from twinlens.models.state_dicts import load_transformers
from twinlens.models.weights import UNREADABLE, give_reason, refuse_wordless

transformers_log.disable_progress_bar()  # of loading and saving, which take no time

CLASSES = {
    "blip": "BlipForConditionalGeneration",
    "blip2": "Blip2ForConditionalGeneration",
    "git": "GitForCausalLM",
}


class Captioner:
    """A captioner with its weights."""

    largest_batch: int | None = None  # that fits into the device's memory, once a larger one did not

    def __init__(self, model: Any, tokenizer: Any, processor: Any, card: CaptionerCard, placement: Placement) -> None:
        self.model = place(model, placement)
        self.tokenizer, self.card, self.placement = tokenizer, card, placement
        self.pixels = read_pixel_spec(processor)
        self.parameters = count_parameters(model)
        self._blip: BlipGenerator | None = None
        if card.captioner == "blip" and (
            settings := read_blip_settings(self.model, card.max_new_tokens, card.num_beams)
        ):
            self._blip = BlipGenerator(self.model, settings)

    def caption(self, pictures: UInt8[torch.Tensor, "images 3 height width"]) -> list[str]:
        """Write one caption per picture, by greedy or beam search: the same pictures give the same words."""
        return self.start(pictures)()

    @torch.no_grad()
    def start(self, pictures: UInt8[torch.Tensor, "images 3 height width"]) -> Callable[[], list[str]]:
        """Start on a batch; returns a function that waits for its captions, which another thread may call.

        Raises:
            OutOfMemoryError: the batch does not fit into the device's memory; a smaller one may.
        """
        pixels = normalise_pixels(pictures, self.pixels, self.placement)
        if self._blip is not None:
            return self._fetch(self._blip.generate(pixels))
        # Every setting is given: defaults have changed between releases of the library.
        settings = {"max_new_tokens": self.card.max_new_tokens, "num_beams": self.card.num_beams, "do_sample": False}
        return self._fetch(self.model.generate(pixel_values=pixels, **settings))

    def expect(self, images: int | None) -> None:
        """Prepare for many batches of `images`, or for none."""
        if self._blip is not None:
            self._blip.expect(images)

    def release(self) -> None:
        """Give back the device memory that batches of one size share."""
        if self._blip is not None:
            self._blip.release()

    def _fetch(self, ids: Int64[torch.Tensor, "images tokens"]) -> Callable[[], list[str]]:
        """Copy tokens to the host, where a GPU goes on meanwhile with what is queued next."""
        if ids.device.type != "cuda":
            own = ids.to("cpu", copy=True)
            return lambda: self._detokenize(own)
        copied = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True).copy_(ids, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(ids.device))

        def wait() -> list[str]:
            arrived.synchronize()
            return self._detokenize(copied)

        return wait

    def _detokenize(self, ids: Int64[torch.Tensor, "images tokens"]) -> list[str]:
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def load(card: CaptionerCard, path: Path, placement: Placement) -> Captioner:
    """Load the captioner in `path`: from the hub, of your own, or trained by the pipeline.

    Raises:
        DataError: the folder does not hold such a model.
    """
    kind = getattr(transformers, CLASSES[card.captioner])
    try:
        config = AutoConfig.from_pretrained(path)
        if not isinstance(config, kind.config_class):  # the library would take it for one, and fail anywhere
            raise DataError(f"{path} holds a {config.model_type} model, the card says {card.captioner}")
        model = load_transformers(kind, path)
        tokenizer = AutoTokenizer.from_pretrained(path)
        refuse_wordless(tokenizer, path)
        captioner = Captioner(model, tokenizer, processor := AutoImageProcessor.from_pretrained(path), card, placement)
    except UNREADABLE as error:
        raise DataError(f"{path} does not hold a {card.captioner} model: {give_reason(error)}") from None
    refuse_other_pixels(processor, captioner.pixels, path)
    return captioner
