"""sentence-transformers text models, with the pooling that their own files prescribe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_log

from twinlens.config.models import SentenceTransformersTower
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.models.encoders.base import LoadedEncoders, count_parameters, place
from twinlens.models.locations.sentence_transformers import WEIGHTS, list_modules
from twinlens.models.state_dicts import allow_harmless_types, read_names, read_state, rename_to_fit
from twinlens.models.weights import UNREADABLE, give_reason, refuse_gaps, refuse_wordless

transformers_log.disable_progress_bar()  # of loading, which takes no time


def load(
    card: SentenceTransformersTower, path: Path, placement: Placement, random_weights: bool = False
) -> LoadedEncoders:
    """Load the text tower.

    Raises:
        DataError: the folder does not hold such a model.
    """
    try:
        with allow_harmless_types():
            model = SentenceTransformer(str(path), device=str(placement.device), local_files_only=True)
        _refuse_gaps(model, path)
    except (*UNREADABLE, ImportError, TypeError) as error:
        raise DataError(f"{path} does not hold a sentence-transformers model: {give_reason(error)}") from None
    refuse_wordless(model.tokenizer, path)
    return LoadedEncoders(None, _Text(place(model, placement), card.prompt))


def _refuse_gaps(model: SentenceTransformer, path: Path) -> None:
    """Refuse a transformer whose weights were not in its files: the library fills it with random numbers and goes on.

    Weights under a wrapper's names are loaded once more under the model's own.
    """
    for folder, module in zip(list_modules(path), model, strict=True):
        inner = getattr(module, "auto_model", getattr(module, "model", None))
        file = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
        if not isinstance(inner, torch.nn.Module) or file is None:
            continue
        wanted = inner.state_dict()
        prefixed = f"{getattr(inner, 'base_model_prefix', '')}."  # weights saved with a task's head on top
        names = {name.removeprefix(prefixed) for name in read_names(file)}
        if {name.removeprefix(prefixed) for name in wanted} <= names:
            continue
        state = rename_to_fit(read_state(file, type(inner).__name__), wanted)
        inner.load_state_dict({name: value for name, value in state.items() if name in wanted}, strict=False)
        # many text models are published without the pooler, which the pooling over tokens does not use
        refuse_gaps(inner, {"missing_keys": wanted.keys() - state.keys()}, path, unused="pooler.")


class _Text:
    def __init__(self, model: SentenceTransformer, prompt: str) -> None:
        self.model, self.prompt = model, prompt
        self.max_tokens = int(model.max_seq_length or model.tokenizer.model_max_length)
        self.parameters = count_parameters(model)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        ids = self.model.tokenizer([self.prompt + text for text in texts], truncation=False, verbose=False).input_ids
        return [len(row) for row in ids]

    def encode(self, texts: Sequence[str]) -> Float32[torch.Tensor, "texts dim"]:
        vectors = self.model.encode(
            list(texts),
            prompt=self.prompt,  # None would let the model's own default in, unseen
            batch_size=len(texts),
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return vectors.float()
