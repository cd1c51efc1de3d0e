"""transformers models: both towers of the CLIP and SigLIP kind, or a text encoder with a pooling."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_log

from twinlens.config.models import TransformersTower
from twinlens.core.device import Placement
from twinlens.core.errors import DataError, ParamsError
from twinlens.images.transforms import PixelSpec
from twinlens.models.encoders.base import (
    LoadedEncoders,
    TokenizedTexts,
    count_parameters,
    normalise_pixels,
    place,
    upload,
)
from twinlens.models.image_processor import read_pixel_spec
from twinlens.models.native import (
    Features,
    NativeBatch,
    Shown,
    Size,
    count_picture_tokens,
    decode_shown,
    find_fewest_pixels,
    move_features,
)
from twinlens.models.state_dicts import load_transformers
from twinlens.models.weights import UNREADABLE, give_reason, refuse_wordless

transformers_log.disable_progress_bar()  # of loading and saving, which take no time


def load(card: TransformersTower, path: Path, placement: Placement, random_weights: bool = False) -> LoadedEncoders:
    """Load both towers of a joint model, or the text tower of a text model.

    Raises:
        DataError: the model cannot be loaded, or brings code of its own, which is not run here (see `own_code`).
        ParamsError: it has no pair of towers, and no pooling is named.
    """
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        if random_weights:
            model = AutoModel.from_config(config)
        else:
            # many text models are published without the pooler, which `mean` and `cls` do not use
            model = load_transformers(AutoModel, path, "pooler." if card.pooling else None)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        refuse_wordless(tokenizer, path)
        processor = None
        if hasattr(model, "get_image_features") and card.pooling is None:
            processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
    except (ImportError, AttributeError) as error:
        raise DataError(f"{card.transformers} could not be loaded: {error}") from None
    except UNREADABLE as error:
        if "trust_remote_code" in str(error):
            raise DataError(
                f"{card.transformers} could not be loaded from {path}: it brings code of its own. Read that code, then "
                "write `trust_remote_code: true` on the card (and the hub's `revision` and `code_revision`)"
            ) from None
        raise DataError(f"{card.transformers} could not be loaded from {path}: {give_reason(error)}") from None
    model = place(model, placement)
    if card.pooling is not None:
        return LoadedEncoders(None, PooledText(model, tokenizer, card.prompt, card.pooling, placement))
    if processor is None:
        raise ParamsError(
            f"{card.transformers} has no pair of towers: as a text tower it needs `pooling: mean` or `cls`"
        )
    return _pair_towers(model, processor, _Text(model, tokenizer, card.prompt, placement), placement)


def _pair_towers(model: Any, processor: Any, text: _Text, placement: Placement) -> LoadedEncoders:
    """Pair the texts' tower with that of pictures: fed by us, or where we do not know how, by the library's processor.

    Raises:
        DataError: the processor is not known here, and the model is no pair of towers.
    """
    try:
        pixels = read_pixel_spec(processor)
    except DataError as error:
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise DataError(
                f"{error}. A model that is asked by messages is named as `sentence_transformers:`"
            ) from None
        return LoadedEncoders(None, text, native=_NativeImage(model, processor, placement))
    return LoadedEncoders(_Image(model, pixels, placement), text)


def pool_output(output: Any) -> torch.Tensor:
    """Take the pooled vectors of a tower: transformers 5 returns an output object where 4 returned them themselves."""
    found = getattr(output, "pooler_output", output)
    assert isinstance(found, torch.Tensor)
    return found


def _vectors(output: Any) -> Float32[torch.Tensor, "rows dim"]:
    return pool_output(output).float()


class _Image:
    def __init__(self, model: Any, pixels: PixelSpec, placement: Placement) -> None:
        self.model, self.pixels, self.placement = model, pixels, placement
        self.parameters = count_parameters(getattr(model, "vision_model", model))

    def encode(self, pictures: UInt8[torch.Tensor, "images 3 height width"]) -> Float32[torch.Tensor, "images dim"]:
        pixels = normalise_pixels(pictures, self.pixels, self.placement)
        return _vectors(self.model.get_image_features(pixel_values=pixels))


class _NativeImage:
    """Pictures by the library's own processor: at their own shape (NaFlex), or prepared as we do not know how to."""

    reads_pairs = False
    threads: int | None = None

    def __init__(self, model: Any, processor: Any, placement: Placement) -> None:
        self.model, self.processor, self.placement = model, processor, placement
        self.parameters = count_parameters(getattr(model, "vision_model", model))
        self.fewest_pixels = find_fewest_pixels(processor)

    def count_tokens(self, sizes: Sequence[Size]) -> Int64[np.ndarray, " pictures"]:
        return count_picture_tokens(self.processor, sizes)

    def read(self, jpegs: Sequence[bytes], texts: Sequence[str] | None = None) -> NativeBatch:
        assert texts is None
        shown = decode_shown(jpegs, None)
        return NativeBatch(shown, self._read_shown(shown))

    def _read_shown(self, shown: Sequence[Shown]) -> Features:
        return dict(self.processor(images=[one.picture for one in shown], return_tensors="pt"))

    def encode(self, batch: NativeBatch) -> Float32[torch.Tensor, "images dim"]:
        features = self._read_shown(batch.shown) if batch.features is None else batch.features
        moved = move_features(features, self.placement.device, self.placement.dtype)
        return _vectors(self.model.get_image_features(**moved))


class _Tokens:
    """A tokenizer, the longest text the model reads, and the padding it was trained with."""

    def __init__(self, model: Any, tokenizer: Any, prompt: str, placement: Placement) -> None:
        self.tokenizer, self.prompt, self.placement = tokenizer, prompt, placement
        config = getattr(model.config, "text_config", model.config)
        positions = int(getattr(config, "max_position_embeddings", 512))
        if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "altclip_text_model"):
            positions -= int(config.pad_token_id) + 1  # its positions start after the padding's
        self.max_tokens = min(positions, int(tokenizer.model_max_length))
        # SigLIP pools at the last position of a text padded to full length, and looks at the padding as at words:
        # less padding, or a mask over it, gives another vector.
        self.siglip = str(model.config.model_type).startswith("siglip")

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        ids = self.tokenizer([self.prompt + text for text in texts], truncation=False, verbose=False).input_ids
        return [len(row) for row in ids]

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenize texts once, to be counted and encoded: a batch is cut to its longest text."""
        found = self.tokenizer(
            [self.prompt + text for text in texts],
            truncation=True,
            max_length=self.max_tokens,
            padding="max_length" if self.siglip else "longest",
            return_attention_mask=True,
            return_tensors="np",
        )
        kept = found["attention_mask"].sum(axis=1)
        counts = kept.copy()
        cut = np.flatnonzero(kept >= self.max_tokens)  # or just as long
        counts[cut] = self.token_counts([texts[int(place)] for place in cut]) if len(cut) else 0
        names = [name for name in found if name != "attention_mask" or not self.siglip]
        left = self.tokenizer.padding_side == "left"

        def encode(places: Int64[np.ndarray, " some"]) -> Float32[torch.Tensor, "some dim"]:
            longest = found["input_ids"].shape[1] if self.siglip else int(kept[places].max())
            some = slice(-longest, None) if left else slice(longest)
            return self.encode_tokens(
                {
                    name: upload(np.ascontiguousarray(found[name][places][:, some]), self.placement.device)
                    for name in names
                }
            )

        return TokenizedTexts(counts, encode)

    def encode(self, texts: Sequence[str]) -> Float32[torch.Tensor, "texts dim"]:
        """Raw vectors of a batch."""
        return self.tokenize(texts).encode(np.arange(len(texts)))

    @abstractmethod
    def encode_tokens(self, tokens: dict[str, torch.Tensor]) -> Float32[torch.Tensor, "texts dim"]:
        """Raw vectors of a batch of tokens."""


class _Text(_Tokens):
    def __init__(self, model: Any, tokenizer: Any, prompt: str, placement: Placement) -> None:
        super().__init__(model, tokenizer, prompt, placement)
        self.model = model
        self.parameters = count_parameters(getattr(model, "text_model", model))

    def encode_tokens(self, tokens: dict[str, torch.Tensor]) -> Float32[torch.Tensor, "texts dim"]:
        return _vectors(self.model.get_text_features(**tokens))


class PooledText(_Tokens):
    """A text encoder that pools its states: the first of a text (`cls`), or the mean of all that are no padding."""

    def __init__(
        self, model: Any, tokenizer: Any, prompt: str, pooling: Literal["mean", "cls"], placement: Placement
    ) -> None:
        super().__init__(model, tokenizer, prompt, placement)
        self.model, self.pooling = model, pooling
        self.parameters = count_parameters(model)

    def encode_tokens(self, tokens: dict[str, torch.Tensor]) -> Float32[torch.Tensor, "texts dim"]:
        """See `_Tokens.encode_tokens`."""
        states = self.model(**tokens).last_hidden_state.float()  # (texts, tokens, dim)
        if self.pooling == "cls":
            return states[:, 0]
        kept = tokens["attention_mask"][:, :, None].float()
        return (states * kept).sum(dim=1) / kept.sum(dim=1)
