"""open_clip models: any architecture with a tag, a local checkpoint, or a folder in open_clip's own layout."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from jaxtyping import Float32, Int64, UInt8
from open_clip.model import CLIP
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.transformer import text_global_pool

from twinlens.config.models import OpenClipTower
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.images.transforms import PixelSpec
from twinlens.models.construction import fill_parameters, leave_parameters_empty
from twinlens.models.encoders.base import LoadedEncoders, TokenizedTexts, count_parameters, normalise_pixels, upload
from twinlens.models.encoders.clip_bpe import ClipBpe, can_stand_for
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
        str(folder),
        context_length=config.get("context_length", 77),
        tokenizer_mode=config.get("tokenizer_mode"),
        **config.get("tokenizer_kwargs", {}),
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
        return vectors.float()


class _Text:
    def __init__(self, model: Any, tokenizer: Any, placement: Placement) -> None:
        self.model, self.tokenizer, self.placement = model, tokenizer, placement
        # a text tower of transformers has more positions than its tokenizer fills
        self.max_tokens = min(int(model.context_length), getattr(tokenizer, "context_length", None) or 2**31)
        self.parameters = count_parameters(model) - count_parameters(model.visual)

    @cached_property
    def _compiled(self) -> ClipBpe | None:
        return ClipBpe(self.tokenizer) if can_stand_for(self.tokenizer) else None

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        counts: list[int] = self.tokenize(texts).counts.tolist()
        return counts

    def encode(self, texts: Sequence[str]) -> Float32[torch.Tensor, "texts dim"]:
        return self.tokenize(texts).encode(np.arange(len(texts)))

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenize texts once, to be counted and encoded."""
        counts, ids = self._read(texts)
        ends = _find_ends(self.model, ids)

        def encode(places: Int64[np.ndarray, " some"]) -> Float32[torch.Tensor, "some dim"]:
            length = None if ends is None else int(ends[places].max()) + 1
            tokens = upload(np.ascontiguousarray(ids[places, :length]), self.placement.device)
            run = self.model.encode_text if ends is None else partial(encode_cut_text, self.model)
            vectors: torch.Tensor = run(tokens)
            return vectors.float()

        return TokenizedTexts(counts, encode)

    def _read(self, texts: Sequence[str]) -> tuple[Int64[np.ndarray, " texts"], Int64[np.ndarray, "texts length"]]:
        """Tokens of each text before anything is cut off, and the tokens that the model reads."""
        if self._compiled is not None:
            tokens = self._compiled.encode(texts)
            ids = self._compiled.pad(tokens, self.max_tokens)
            if _find_ends(self.model, ids[:0]) is None:  # a model that reads the padding gets all of it
                ids = np.pad(ids, ((0, 0), (0, self.max_tokens - ids.shape[1])))
            return np.array([len(row) + 2 for row in tokens], dtype=np.int64), ids
        if isinstance(self.tokenizer, open_clip.SimpleTokenizer):
            counts = [len(self.tokenizer.encode(text)) + 2 for text in texts]
            return np.array(counts, dtype=np.int64), self.tokenizer(list(texts)).numpy()
        clean = [self.tokenizer.clean_fn(text) for text in texts]
        if self.tokenizer.tokenizer_mode == "clips":  # which puts its special tokens there itself
            return self._count(clean), self.tokenizer(list(texts)).numpy()
        found = self.tokenizer.tokenizer(
            clean,
            max_length=self.tokenizer.context_length,
            padding="max_length",
            truncation=True,
            return_attention_mask=True,
            return_tensors="np",
        )
        counts, ids = found["attention_mask"].sum(axis=1), found["input_ids"]
        cut = np.flatnonzero(counts >= self.tokenizer.context_length)  # or just as long
        counts[cut] = self._count([clean[place] for place in cut])
        return counts, np.where(
            ids == self.tokenizer.tokenizer.sep_token_id, 0, ids
        ) if self.tokenizer.strip_sep_token else ids

    def _count(self, clean: list[str]) -> Int64[np.ndarray, " texts"]:
        rows = self.tokenizer.tokenizer(clean, truncation=False).input_ids if clean else []
        return np.array([len(row) for row in rows], dtype=np.int64)


def encode_text(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Run `model.encode_text`, without computing on padding where that changes nothing.

    A CLIP text tower is causal and pools at the end token, so what stands after the longest text
    of the batch reaches no result; cutting it off is exact and several times faster. SigLIP's is
    neither: it is trained on full padding and pools at the last position, and is never cut.
    """
    ends = _find_ends(model, tokens)
    if ends is None:
        return model.encode_text(tokens)
    return encode_cut_text(model, tokens[:, : int(ends.max()) + 1])


def _find_ends(model: Any, tokens: Any) -> Any:
    """The place of each text's end token, in tokens of torch or of numpy; None where a model reads the padding too."""
    if not isinstance(model, CLIP) or model.attn_mask is None or model.text_pool_type not in ("argmax", "eos"):
        return None
    return tokens.argmax(-1) if model.text_pool_type == "argmax" else ((tokens == model.text_eos_id) * 1).argmax(-1)


def encode_cut_text(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Run `encode_text` of a causal CLIP over fewer positions than it has, which hold every text to its end."""
    length = tokens.shape[1]
    dtype = model.transformer.get_cast_dtype()
    x = model.token_embedding(tokens).to(dtype) + model.positional_embedding[:length].to(dtype)
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = text_global_pool(model.ln_final(x), tokens, model.text_pool_type, eos_token_id=model.text_eos_id)
    if model.text_projection is None:
        return x
    if isinstance(model.text_projection, torch.nn.Linear):
        return model.text_projection(x)
    return x @ model.text_projection
