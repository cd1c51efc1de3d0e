"""transformers' own path: the image processor and the tokenizer that lie beside the weights, and the model's features.

A text model's states are pooled text by text, so that there is no padding to leave out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from transformers import AutoImageProcessor, AutoTokenizer

from twinlens.config.models import TransformersTower
from twinlens.core.device import Placement
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.native import move_features
from twinlens.models.references.base import Reference, Vector

UNSAID = 1_000_000  # tokens: what a tokenizer says that was saved without a limit is more


def build(tower: TransformersTower, path: Path, loaded: LoadedEncoders, placement: Placement) -> Reference:
    """Build the reference; see `twinlens.models.references.build`."""
    encoder: Any = loaded.text
    model: Any = encoder.model
    tokenizer = AutoTokenizer.from_pretrained(path)
    said = int(tokenizer.model_max_length)
    siglip = str(model.config.model_type).startswith("siglip")  # as its processor does: full padding, and no mask

    def tokens(words: str) -> dict[str, torch.Tensor]:
        found = tokenizer(
            tower.prompt + words,
            truncation=True,
            max_length=said if said < UNSAID else encoder.max_tokens,
            padding="max_length" if siglip else False,
            return_tensors="pt",
        )
        wanted = ("input_ids",) if siglip else tuple(found)
        return {name: found[name].to(placement.device) for name in wanted}

    def text(words: str) -> Vector:
        if tower.pooling is not None:
            states = model(**tokens(words)).last_hidden_state.float().cpu()  # (1, tokens, dim)
            return states[:, 0] if tower.pooling == "cls" else states.mean(dim=1)
        return _vectors(model.get_text_features(**tokens(words)))

    if tower.pooling is not None:
        return Reference("transformers", None, text)
    processor = AutoImageProcessor.from_pretrained(path)

    def picture(image: Image) -> Vector:
        read = move_features(dict(processor(images=image, return_tensors="pt")), placement.device, placement.dtype)
        if loaded.native is not None:
            return _vectors(model.get_image_features(**read))
        return _vectors(model.get_image_features(torch.as_tensor(read["pixel_values"])))

    return Reference("transformers", picture, text)


def _vectors(output: Any) -> Vector:
    """Features, which transformers 5 wraps in an output object."""
    found: torch.Tensor = getattr(output, "pooler_output", output)
    return found.float().cpu()
