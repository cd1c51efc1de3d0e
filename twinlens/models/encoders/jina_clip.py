"""jina-clip-v2: both towers, from its published checkpoint (`twinlens.models.jina_checkpoint`).

As published, texts go through the adapter `retrieval.query` with no instruction in front, are cut at 512 tokens, and
are the mean of their states; pictures are the class token's state. A shorter vector is the first dimensions of the
whole one, brought to unit length after the cut.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from transformers import PreTrainedTokenizerFast

from twinlens.config.models import JinaClipTower
from twinlens.core.device import Placement
from twinlens.core.errors import DataError, ParamsError
from twinlens.images.transforms import PixelSpec
from twinlens.models.construction import leave_parameters_empty
from twinlens.models.encoders.base import LoadedEncoders, count_parameters, normalise_pixels, place
from twinlens.models.encoders.transformers import PooledText
from twinlens.models.jina_checkpoint import (
    JinaConfig,
    build_towers,
    fill_picture_tower,
    fill_text_tower,
    lay_out,
    read_config,
)
from twinlens.models.locations.jina_clip import WEIGHTS
from twinlens.models.state_dicts import read_state, refuse_misfit, rename_to_fit
from twinlens.models.weights import UNREADABLE, give_reason, refuse_wordless

WHAT = "a jina-clip-v2"
PREPROCESSOR = "preprocessor_config.json"
MAX_TOKENS = 512  # of `encode_text` as published, though the tower has positions for 8,194


def load(card: JinaClipTower, path: Path, placement: Placement, random_weights: bool = False) -> LoadedEncoders:
    """Load both towers.

    Raises:
        ParamsError: the card asks for more `dimensions` than the model has.
        DataError: the folder does not hold such a model.
    """
    config = read_config(path)
    if card.dimensions is not None and card.dimensions > config.dim:
        raise ParamsError(f"{card.jina_clip} has {config.dim} dimensions: `dimensions: {card.dimensions}` is more")
    pixels, tokenizer = read_pixel_spec(path, config), _read_tokenizer(path)
    if random_weights:
        with placement.device:
            pictures, texts = build_towers(config)
    else:
        pictures, texts = _load_towers(path, config, placement.device)
    image = _Image(place(pictures, placement), pixels, card.dimensions, placement)
    return LoadedEncoders(image, _Text(place(texts, placement), tokenizer, card, placement))


def _load_towers(path: Path, config: JinaConfig, device: torch.device) -> tuple[torch.nn.Module, torch.nn.Module]:
    file = next((path / name for name in WEIGHTS if (path / name).exists()), None)
    if file is None:
        raise DataError(f"{path} lacks the weights: wanted {' or '.join(WEIGHTS)}")
    with leave_parameters_empty():
        pictures, texts = build_towers(config)
    wanted = lay_out(pictures, texts, config)
    state = rename_to_fit(read_state(file, WHAT), wanted)
    refuse_misfit(state, wanted, WHAT, file)
    fill_picture_tower(pictures, state, device)
    fill_text_tower(texts, state, config, device)
    return pictures, texts


def read_pixel_spec(path: Path, config: JinaConfig) -> PixelSpec:
    """Read how pictures are prepared, from the settings of the publisher's image processor.

    Raises:
        DataError: they are not there, or are not for this picture tower.
    """
    file = path / PREPROCESSOR
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        size = found["size"]
        height, width = (size, size) if isinstance(size, int) else map(int, size)
        spec = PixelSpec(
            height=height,
            width=width,
            mode=found.get("resize_mode", "shortest"),
            mean=tuple(found["mean"]),
            std=tuple(found["std"]),
            interpolation="bilinear" if found.get("interpolation") == "bilinear" else "bicubic",
            fill=found.get("fill_color", 0),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} does not say how pictures are prepared: wanted size, mean and std ({error!r})"
        ) from None
    side = config.vision["image_size"]
    if (height, width) != (side, side) or spec.mode not in ("shortest", "squash", "longest"):
        raise DataError(f"{file} prepares {width} x {height} px ({spec.mode}); the picture tower reads {side} x {side}")
    return spec


def _read_tokenizer(path: Path) -> Any:
    try:
        # Not AutoTokenizer, which asks config.json and ends at the publisher's code.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    except UNREADABLE as error:
        raise DataError(f"{path} lacks the tokenizer (tokenizer.json): {give_reason(error)}") from None
    refuse_wordless(tokenizer, path)
    return tokenizer


class _Image:
    def __init__(self, model: Any, pixels: PixelSpec, dimensions: int | None, placement: Placement) -> None:
        self.model, self.pixels, self.dimensions, self.placement = model, pixels, dimensions, placement
        self.parameters = count_parameters(model)

    def encode(self, pictures: UInt8[torch.Tensor, "images 3 height width"]) -> Float32[torch.Tensor, "images dim"]:
        vectors: torch.Tensor = self.model(normalise_pixels(pictures, self.pixels, self.placement))
        return vectors[:, : self.dimensions].float()


class _Text(PooledText):
    def __init__(self, model: Any, tokenizer: Any, card: JinaClipTower, placement: Placement) -> None:
        super().__init__(model, tokenizer, card.prompt, "mean", placement)
        self.dimensions, self.max_tokens = card.dimensions, min(self.max_tokens, MAX_TOKENS)

    def encode_tokens(self, tokens: dict[str, torch.Tensor]) -> Float32[torch.Tensor, "texts dim"]:
        # As published: what has the padding's number is padding, also where a text spells it out.
        ids = tokens["input_ids"]
        kept = (ids != self.model.config.pad_token_id).long()
        return super().encode_tokens({"input_ids": ids, "attention_mask": kept})[:, : self.dimensions]
