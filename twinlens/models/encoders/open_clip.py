"""open_clip models: any architecture with a tag, a local checkpoint, or a folder in open_clip's own layout."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Float32, UInt8
from open_clip.model import CLIP
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.transformer import text_global_pool

from twinlens.config.models import OpenClipTower
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.images.transforms import PixelSpec
from twinlens.models.construction import fill_parameters, leave_parameters_empty
from twinlens.models.encoders.base import LoadedEncoders, count_parameters, normalise_pixels
from twinlens.models.locations.open_clip import TOKENIZER, find_weights
from twinlens.models.state_dicts import named_plainly
from twinlens.models.weights import UNREADABLE, fetch_weights_folder, give_reason

ALWAYS = ("logit_scale",)  # in the weights of any CLIP, also in the formats of others that open_clip converts
ARRAYS = (".npz", ".npy")  # of JAX: code of each architecture copies what it finds, and need not find all
TRANSFORM = ("mean", "std", "interpolation", "resize_mode")


def load(card: OpenClipTower, path: Path, placement: Placement, random_weights: bool = False) -> LoadedEncoders:
    """Load both towers.

    Args:
        card: the tower's card.
        path: what `locate` found, or a folder that `train` wrote.
        placement: where it runs.
        random_weights: build the architecture and load nothing, to measure speed.

    Raises:
        DataError: the weights do not fit the architecture.
    """
    quiet = logging.getLogger()
    level, quiet_level = quiet.level, logging.ERROR
    quiet.setLevel(quiet_level)  # open_clip logs every step of a load to the root logger
    try:
        if path.is_dir():
            weights: Path | None = find_weights(path)  # open_clip would go on with random ones
            name = f"local-dir:{path}"
            model = _build(name, weights, placement, load_weights=False)
            tokenizer = open_clip.get_tokenizer(name)
        else:
            weights = None if random_weights else path
            preprocess = _preprocess(card)
            model = _build(card.open_clip, weights, placement, force_preprocess_cfg=preprocess)
            tokenizer = _tokenizer(card, path)
        if weights is not None:
            with named_plainly(weights, {*ALWAYS, *model.state_dict()}, card.open_clip) as file:
                open_clip.load_checkpoint(model, str(file))
    except (*UNREADABLE, AssertionError) as error:  # open_clip asserts the sizes of some of them
        raise DataError(f"{path} does not hold the weights of {card.open_clip}: {give_reason(error)}") from None
    finally:
        quiet.setLevel(level)
    return wrap(model, tokenizer, placement)


def _build(name: str, weights: Path | None, placement: Placement, **options: Any) -> Any:
    """Build a model; where weights are to be loaded, without random ones before."""
    if weights is None:
        with placement.device:  # where drawing them takes least
            return open_clip.create_model(name, pretrained_text=False, device=placement.device, **options)
    if weights.suffix in ARRAYS:
        return open_clip.create_model(name, pretrained_text=False, **options)
    with leave_parameters_empty():
        model = open_clip.create_model(name, pretrained_text=False, **options)
    fill_parameters(model, placement.device)
    return model


def wrap(model: Any, tokenizer: Any, placement: Placement) -> LoadedEncoders:
    """Wrap a model that is in memory, one that is being trained for instance, as encoders."""
    model = model.eval().to(placement.device, placement.dtype)
    return LoadedEncoders(_Image(model, placement), _Text(model, tokenizer, placement))


def _preprocess(card: OpenClipTower) -> dict[str, Any]:
    # A bare file says nothing of the transform: it is its tag's (SigLIP's differs from CLIP's), or without
    # a tag the commonest among those of the architecture.
    tags = [card.pretrained] if card.pretrained else list_pretrained_tags_by_model(card.open_clip)
    known = [get_pretrained_cfg(card.open_clip, tag) for tag in tags]
    transforms = [{key: tag[key] for key in TRANSFORM if key in tag} for tag in known]
    return max(transforms, key=transforms.count, default={})


def _tokenizer(card: OpenClipTower, weights: Path) -> Any:
    config = open_clip.get_model_config(card.open_clip)["text_cfg"]
    if not config.get("hf_tokenizer_name"):
        return open_clip.get_tokenizer(card.open_clip)
    if (weights.parent / "tokenizer_config.json").exists():  # fetched beside the weights, at their revision
        return open_clip.tokenizer.HFTokenizer(
            str(weights.parent),
            context_length=config.get("context_length", 77),
            tokenizer_mode=config.get("tokenizer_mode"),
            **config.get("tokenizer_kwargs", {}),
        )
    folder = fetch_weights_folder(str(config["hf_tokenizer_name"]), None, ["*.json", *TOKENIZER])
    return open_clip.tokenizer.HFTokenizer(
        str(folder), context_length=config.get("context_length", 77), **config.get("tokenizer_kwargs", {})
    )


def read_pixel_spec(config: dict[str, Any]) -> PixelSpec:
    """Convert open_clip's `preprocess_cfg` to a pixel specification."""
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return PixelSpec(
        height=height,
        width=width,
        mode=config.get("resize_mode", "shortest"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        fill=config.get("fill_color", 0),
    )


class _Image:
    def __init__(self, model: Any, placement: Placement) -> None:
        self.model, self.placement = model, placement
        self.pixels = read_pixel_spec(model.visual.preprocess_cfg)
        self.parameters = count_parameters(model.visual)

    def encode(self, pictures: UInt8[torch.Tensor, "images 3 height width"]) -> Float32[torch.Tensor, "images dim"]:
        vectors: torch.Tensor = self.model.encode_image(normalise_pixels(pictures, self.pixels, self.placement))
        return vectors.float().cpu()


class _Text:
    def __init__(self, model: Any, tokenizer: Any, placement: Placement) -> None:
        self.model, self.tokenizer, self.placement = model, tokenizer, placement
        self.max_tokens = int(model.context_length)
        self.parameters = count_parameters(model) - count_parameters(model.visual)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        if isinstance(self.tokenizer, open_clip.SimpleTokenizer):
            return [len(self.tokenizer.encode(text)) + 2 for text in texts]
        clean = [self.tokenizer.clean_fn(text) for text in texts]
        return [len(ids) for ids in self.tokenizer.tokenizer(clean, truncation=False).input_ids]

    def encode(self, texts: Sequence[str]) -> Float32[torch.Tensor, "texts dim"]:
        tokens = self.tokenizer(list(texts)).to(self.placement.device)
        vectors: torch.Tensor = encode_text(self.model, tokens)
        return vectors.float().cpu()


def encode_text(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Run `model.encode_text`, without computing on padding where that changes nothing.

    A CLIP text tower is causal and pools at the end token, so what stands after the longest text
    of the batch reaches no result; cutting it off is exact and several times faster. SigLIP's is
    neither: it is trained on full padding and pools at the last position, and is never cut.
    """
    causal = isinstance(model, CLIP) and model.attn_mask is not None
    if not causal or model.text_pool_type not in ("argmax", "eos"):
        return model.encode_text(tokens)
    end = tokens.argmax(dim=-1) if model.text_pool_type == "argmax" else (tokens == model.text_eos_id).int().argmax(-1)
    length = int(end.max()) + 1
    tokens = tokens[:, :length]
    dtype = model.transformer.get_cast_dtype()
    x = model.token_embedding(tokens).to(dtype) + model.positional_embedding[:length].to(dtype)
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = text_global_pool(model.ln_final(x), tokens, model.text_pool_type, eos_token_id=model.text_eos_id)
    if model.text_projection is None:
        return x
    if isinstance(model.text_projection, torch.nn.Linear):
        return model.text_projection(x)
    return x @ model.text_projection
