"""BLIP, BLIP-2 and GIT, which differ in their class and in nothing else that matters here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import UInt8
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
from transformers.utils import logging as transformers_log

from twinlens.config.captioners import CaptionerCard
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.models.encoders.base import count_parameters, normalise_pixels
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

    def __init__(self, model: Any, tokenizer: Any, processor: Any, card: CaptionerCard, placement: Placement) -> None:
        self.model = model.eval().to(placement.device, placement.dtype)
        self.tokenizer, self.card, self.placement = tokenizer, card, placement
        self.pixels = read_pixel_spec(processor)
        self.parameters = count_parameters(model)

    @torch.inference_mode()
    def caption(self, pictures: UInt8[torch.Tensor, "images 3 height width"]) -> list[str]:
        """Write one caption per picture, by greedy or beam search: the same pictures give the same words."""
        # Every setting is given: defaults have changed between releases of the library.
        ids = self.model.generate(
            pixel_values=normalise_pixels(pictures, self.pixels, self.placement),
            max_new_tokens=self.card.max_new_tokens,
            num_beams=self.card.num_beams,
            do_sample=False,
        )
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


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
