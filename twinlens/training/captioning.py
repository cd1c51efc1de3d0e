"""Training of a small BLIP from nothing: the next word of a caption, given the picture and the words before."""

from __future__ import annotations

import copy
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor
from transformers.models.blip.modeling_blip import BlipAttention
from transformers.models.blip.modeling_blip_text import BlipTextSelfAttention
from transformers.utils import logging as transformers_log

from twinlens.config.captioners import CaptionerCard
from twinlens.core.device import Placement
from twinlens.core.scratch import Scratch
from twinlens.models.encoders.base import normalise_pixels
from twinlens.models.image_processor import read_pixel_spec
from twinlens.training.data import PixelStore, Split, TrainingData, TrainingResult, fingerprint_training
from twinlens.training.feed import Tensors, feed
from twinlens.training.loop import Batch, run_epochs
from twinlens.training.tokenizer import learn_tokenizer

transformers_log.disable_progress_bar()  # of loading and saving, which take no time

HALF = (0.5, 0.5, 0.5)
AT_ONCE = {"cpu": 100, "cuda": 512}  # pictures, while validating


def train_captioner(card: CaptionerCard, material: TrainingData, placement: Placement, out: Path) -> TrainingResult:
    """Train a custom BLIP architecture; write it in transformers' own layout into `out`.

    Raises:
        DataError: the splits cannot be trained on, or a loss is useless.
    """
    train, val = material.splits()
    trainer = _Trainer(card, train, val, placement)
    decoding = {"max_new_tokens", "num_beams"}  # how words are searched for later on
    described = card.model_dump(mode="json", exclude=decoding)
    key = fingerprint_training(described, train, val, placement, __name__)
    with Scratch("train", key) as scratch:
        rows = trainer.run(material.store(train, trainer.pixels), material.store(val, trainer.pixels), scratch)
        trainer.write(out)
        return TrainingResult(rows, scratch.total("seconds"), len(train.pictures))


def fuse_attention(model: torch.nn.Module) -> None:
    """Let a BLIP in training attend by torch's fused product in place of transformers' chain of ten operations.

    The weights are not given out, and no key-value cache is kept: training asks for neither. A tower whose weights of
    attention are dropped out stays as it is.
    """
    for module in model.modules():
        if isinstance(module, BlipAttention) and module.dropout.p == 0.0:
            module.forward = partial(_attend_to_places, module)  # type: ignore[method-assign]
        elif isinstance(module, BlipTextSelfAttention) and module.dropout.p == 0.0:
            module.forward = partial(_attend_to_words, module)  # type: ignore[method-assign]


def _attend_to_places(self: Any, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
    """`BlipAttention.forward`."""
    pictures, places, width = hidden_states.shape
    query, key, value = (
        self.qkv(hidden_states).view(pictures, places, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
    )
    found = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    return self.projection(found.transpose(1, 2).reshape(pictures, places, width)), None


def _attend_to_words(
    self: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    encoder_hidden_states: torch.Tensor | None = None,
    encoder_attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`BlipTextSelfAttention.forward`, over words, or over a picture where `encoder_hidden_states` are given."""
    seen, mask = hidden_states, attention_mask
    if encoder_hidden_states is not None:
        seen, mask = encoder_hidden_states, encoder_attention_mask

    def by_head(rows: torch.Tensor) -> torch.Tensor:
        return rows.view(*rows.shape[:2], self.num_attention_heads, -1).transpose(1, 2)

    found = torch.nn.functional.scaled_dot_product_attention(
        by_head(self.query(hidden_states)), by_head(self.key(seen)), by_head(self.value(seen)), attn_mask=mask
    )
    return found.transpose(1, 2).reshape(hidden_states.shape), None


class _Trainer:
    def __init__(self, card: CaptionerCard, train: Split, val: Split, placement: Placement) -> None:
        assert card.train is not None
        self.recipe, self.train, self.val, self.placement = card.train, train, val, placement
        self.tokenizer = learn_tokenizer(train.captions)
        config = copy.deepcopy(card.architecture or {})
        special = {
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
            "sep_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
        }
        config["text_config"] |= special | {"vocab_size": len(self.tokenizer)}
        size = int(config["vision_config"]["image_size"])
        self.processor = BlipImageProcessor(
            size={"height": size, "width": size}, image_mean=HALF, image_std=HALF, resample=3
        )
        self.pixels = read_pixel_spec(self.processor)
        torch.manual_seed(self.recipe.seed)
        self.model = BlipForConditionalGeneration(BlipConfig(**config)).to(placement.device)
        fuse_attention(self.model)
        self.longest = int(config["text_config"]["max_position_embeddings"])
        self.tokens, self.val_tokens = self._tokenized(train.captions), self._tokenized(val.captions)

    def _tokenized(self, texts: list[str]) -> torch.Tensor:
        return self.tokenizer(
            texts, padding="longest", truncation=True, max_length=self.longest, return_tensors="pt"
        ).input_ids

    def run(self, pictures: PixelStore, val_pictures: PixelStore, scratch: Scratch) -> list[dict[str, float]]:
        def gather(batch: Batch) -> Tensors:
            rows, captions = batch
            return pictures[rows], self._cut(self.tokens[captions])

        first = np.array([rows[0] for rows in self.val.captions_of])
        device = self.placement.device
        size = AT_ONCE.get(device.type, AT_ONCE["cpu"])
        pieces = [np.arange(start, min(start + size, len(first))) for start in range(0, len(first), size)]

        def gather_held_out(rows: Int[np.ndarray, " batch"]) -> Tensors:
            return val_pictures[rows], self._cut(self.val_tokens[first[rows]])

        def validate() -> dict[str, float]:
            with torch.inference_mode(), closing(feed(pieces, gather_held_out, device)) as fed:
                losses = torch.stack([self._loss(*tensors) for tensors in fed])
            return {"val_loss": float(np.average(losses.tolist(), weights=[len(rows) for rows in pieces]))}

        return run_epochs(
            self.model,
            self.recipe,
            self.train.captions_of,
            gather,
            self._loss,
            validate,
            scratch,
            merit=lambda row: -row["val_loss"],
        )

    def write(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(out)
        self.tokenizer.save_pretrained(out)
        self.processor.save_pretrained(out)

    def _cut(self, tokens: torch.Tensor) -> torch.Tensor:
        """Cut off what all captions of a batch have as padding."""
        return tokens[:, : int((tokens != self.tokenizer.pad_token_id).sum(dim=1).max())]

    def _loss(self, pictures: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Cross entropy of each word given those before it; padding does not count."""
        seen = self.model.vision_model(pixel_values=normalise_pixels(pictures, self.pixels, self.placement))[0]
        mask = (tokens != self.tokenizer.pad_token_id).long()
        logits = self.model.text_decoder(input_ids=tokens, attention_mask=mask, encoder_hidden_states=seen).logits
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=int(self.tokenizer.pad_token_id)
        )
