"""sentence-transformers models, with the pooling that their own files prescribe: of texts, of pictures, and of both.

What a picture or a text becomes is decided by the library's own `preprocess`: its chat templates, prompts and
processors, at a picture's native resolution. Batches are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers.utils import logging as transformers_log

from twinlens.config.sentence_models import SentenceTransformersTower
from twinlens.core.device import Placement
from twinlens.core.errors import DataError, ParamsError
from twinlens.models.encoders.base import LoadedEncoders, TokenizedTexts, count_parameters, place
from twinlens.models.locations.sentence_transformers import find_weights, list_modules
from twinlens.models.native import (
    NativeBatch,
    Shown,
    Size,
    count_picture_tokens,
    decode_shown,
    find_fewest_pixels,
    move_features,
)
from twinlens.models.state_dicts import (
    Reports,
    allow_harmless_types,
    collect_reports,
    read_names,
    read_state,
    rename_to_fit,
)
from twinlens.models.weights import UNREADABLE, give_reason, refuse_gaps, refuse_wordless

transformers_log.disable_progress_bar()  # of loading, which takes no time

UNSAID = 1_000_000  # tokens: what a tokenizer says that was saved without a limit is more
UNPADDED: Any = {"text": {"padding": False}, "common": {"return_tensors": None}}  # lists of numbers, not tensors
PADDING_FAST = "Asking-to-pad-a-fast-tokenizer"  # a remark of transformers', which pads and tokenizes in one call


def load(
    card: SentenceTransformersTower, path: Path, placement: Placement, random_weights: bool = False
) -> LoadedEncoders:
    """Load the towers: that of texts, and where the model reads pictures, that of them.

    Raises:
        DataError: the folder does not hold such a model.
        ParamsError: the model has fewer dimensions than the card asks for.
    """
    try:
        with allow_harmless_types(), collect_reports() as reports:
            model = SentenceTransformer(str(path), device=str(placement.device), local_files_only=True)
        refuse_module_gaps(model, list_modules(path), path, reports)
    except (*UNREADABLE, ImportError, TypeError) as error:
        raise DataError(f"{path} does not hold a sentence-transformers model: {give_reason(error)}") from None
    refuse_wordless(model.tokenizer, path)
    _refuse_more_dimensions(model, card)
    model = place(model, placement)
    reader = TokenReader if _reads_tokens_alone(model) else TextReader
    text = reader(model, card.prompt_of("query"), card.dimensions, placement)
    if not model.supports("image"):
        return LoadedEncoders(None, text)
    return LoadedEncoders(None, text, native=PictureReader(model, card.prompt_of("item"), card.dimensions, placement))


def refuse_module_gaps(model: Iterable[torch.nn.Module], folders: Sequence[Path], path: Path, reports: Reports) -> None:
    """Refuse a transformer whose weights were not in its files: the library fills it with random numbers and goes on.

    Weights under a wrapper's names are loaded once more under the model's own.

    Args:
        model: its modules.
        folders: of the modules, as far as they have some.
        path: of the whole, for messages.
        reports: of the library's loading.

    Raises:
        DataError: weights are missing.
    """
    for folder, module in zip(folders, model, strict=False):
        inner = getattr(module, "auto_model", getattr(module, "model", None))
        if not isinstance(inner, torch.nn.Module) or not (files := find_weights(folder)):
            continue
        wanted = inner.state_dict()
        prefixed = f"{getattr(inner, 'base_model_prefix', '')}."  # weights saved with a task's head on top
        names = {name.removeprefix(prefixed) for file in files for name in read_names(file)}
        if {name.removeprefix(prefixed) for name in wanted} <= names:
            continue
        report = next((report for loaded, report in reports if loaded is inner), None)
        # many text models are published without the pooler, which the pooling over tokens does not use
        if report is not None and not _lacks(inner, report):
            continue
        state = {name: value for file in files for name, value in read_state(file, type(inner).__name__).items()}
        state = rename_to_fit(state, wanted)
        inner.load_state_dict({name: value for name, value in state.items() if name in wanted}, strict=False)
        refuse_gaps(inner, {"missing_keys": wanted.keys() - state.keys()}, path, unused="pooler.")


def _lacks(model: torch.nn.Module, report: dict[str, Any]) -> bool:
    parameters = {name for name, value in model.named_parameters() if value.numel() > 1}
    return any(name in parameters and "pooler." not in name for name in report["missing_keys"])


def _refuse_more_dimensions(model: SentenceTransformer, card: SentenceTransformersTower) -> None:
    has = model.get_embedding_dimension()
    if card.dimensions is not None and has is not None and card.dimensions > has:
        raise ParamsError(
            f"{card.sentence_transformers} makes vectors of {has} dimensions, and the card asks for the first "
            f"{card.dimensions}: write `dimensions: {has}` or fewer, or leave it out"
        )


class Reader:
    """One model and a prompt."""

    threads: int | None = 1  # its tokenizer keeps settings that two threads would change under one another

    def __init__(self, model: SentenceTransformer, prompt: str, dimensions: int | None, placement: Placement) -> None:
        self.model, self.prompt, self.dimensions, self.placement = model, prompt, dimensions, placement
        self.parameters = count_parameters(model)

    def with_prompt(self, prompt: str) -> Any:
        """The same model with another prompt."""
        return type(self)(self.model, prompt, self.dimensions, self.placement)

    def read_inputs(self, inputs: list[Any]) -> dict[str, Any]:
        """Read inputs as the library does; a prompt of None would let the model's own default in, unseen."""
        found: dict[str, Any] = self.model.preprocess(inputs, prompt=self.prompt)
        return found

    def encode_features(self, features: dict[str, Any]) -> Float32[torch.Tensor, "inputs dim"]:
        """Raw vectors of what was read."""
        found = self.model(move_features(features, self.placement.device, self.placement.dtype))
        vectors: torch.Tensor = found["sentence_embedding"]
        return vectors[:, : self.dimensions].float()


class TextReader(Reader):
    """Texts, as an encoder reads them (`base.TextEncoder`)."""

    def __init__(self, model: SentenceTransformer, prompt: str, dimensions: int | None, placement: Placement) -> None:
        super().__init__(model, prompt, dimensions, placement)
        said = int(model.max_seq_length or model.tokenizer.model_max_length)
        config: Any = model.config
        text = getattr(config, "text_config", config)
        self.max_tokens = min(said, getattr(text, "max_position_embeddings", said)) if said > UNSAID else said
        self._around: int | None = None

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """See `base.TextEncoder.token_counts`."""
        ids = self.model.tokenizer([self.prompt + text for text in texts], truncation=False, verbose=False).input_ids
        around = self._count_around()
        return [len(row) + around for row in ids]

    def _count_around(self) -> int:
        """Count the tokens that a chat template puts around a text, beside the text's own and the prompt's."""
        if self._around is None:
            word = "a"
            alone = self.model.tokenizer([self.prompt + word], truncation=False, verbose=False).input_ids[0]
            read = self.read_inputs([self._as_input(word)]).get("input_ids")
            self._around = 0 if read is None else max(0, int(read.shape[1]) - len(alone))
        return self._around

    def _as_input(self, text: str) -> Any:
        """A text that names a file or an address would be opened as a picture, were its kind not said."""
        return {"text": text} if self.model.supports("image") else text

    def encode(self, texts: Sequence[str]) -> Float32[torch.Tensor, "texts dim"]:
        """See `base.TextEncoder.encode`."""
        return self.encode_features(self.read_texts(texts))

    def read_texts(self, texts: Sequence[str]) -> dict[str, Any]:
        """Read a batch of texts."""
        return self.read_inputs([self._as_input(text) for text in texts])


def _reads_tokens_alone(model: SentenceTransformer) -> bool:
    """Whether what the model reads of a text is its tokens, and those of others only where they pad it."""
    first: Any = model[0]
    return isinstance(first, Transformer) and model.modalities == ["text"] and not first.processing_kwargs


class TokenReader(TextReader):
    """Texts of a model that reads nothing but tokens: each text is tokenized once, to be counted and encoded."""

    def __init__(self, model: SentenceTransformer, prompt: str, dimensions: int | None, placement: Placement) -> None:
        super().__init__(model, prompt, dimensions, placement)
        self.tokenizer: Any = model.tokenizer
        self.tokenizer.deprecation_warnings[PADDING_FAST] = True  # said already
        self.names = set(self.tokenizer.model_input_names)

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenize texts as the library does, but for the padding, which a batch gets once it is known."""
        read = self.model.preprocess(list(texts), prompt=self.prompt, processing_kwargs=UNPADDED)
        tokens = {name: read[name] for name in read if name in self.names}
        rest = {name: read[name] for name in read if name not in self.names}
        counts = np.array([len(row) for row in tokens["input_ids"]], dtype=np.int64)
        cut = np.flatnonzero(counts >= self.max_tokens)  # or just as long
        if len(cut):
            counts[cut] = self.token_counts([texts[int(place)] for place in cut])

        def encode(places: Int64[np.ndarray, " some"]) -> Float32[torch.Tensor, "some dim"]:
            some = {name: [rows[place] for place in places] for name, rows in tokens.items()}
            padded = self.tokenizer.pad(some, padding=True, return_tensors="pt")
            return self.encode_features(dict(padded) | rest)

        return TokenizedTexts(counts, encode)


class PictureReader(Reader):
    """Pictures, and pictures with texts, as an encoder reads them (`base.NativeEncoder`)."""

    def __init__(self, model: SentenceTransformer, prompt: str, dimensions: int | None, placement: Placement) -> None:
        super().__init__(model, prompt, dimensions, placement)
        self.fewest_pixels = find_fewest_pixels(model.processor)
        self.reads_pairs = model.supports(("image", "text")) or model.supports("message")

    def count_tokens(self, sizes: Sequence[Size]) -> Int64[np.ndarray, " pictures"]:
        """See `base.NativeEncoder.count_tokens`."""
        return count_picture_tokens(self.model.processor, sizes)

    def read(self, jpegs: Sequence[bytes], texts: Sequence[str] | None = None) -> NativeBatch:
        """See `base.NativeEncoder.read`."""
        shown = decode_shown(jpegs, texts)
        return NativeBatch(shown, self._read_shown(shown))

    def _read_shown(self, shown: Sequence[Shown]) -> dict[str, Any]:
        return self.read_inputs(
            [one.picture if one.text is None else {"image": one.picture, "text": one.text} for one in shown]
        )

    def encode(self, batch: NativeBatch) -> Float32[torch.Tensor, "inputs dim"]:
        """See `base.NativeEncoder.encode`."""
        return self.encode_features(self.features_of(batch))

    def features_of(self, batch: NativeBatch) -> dict[str, Any]:
        """What was read of a batch, or is read now."""
        return self._read_shown(batch.shown) if batch.features is None else batch.features
