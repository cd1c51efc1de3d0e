"""sentence-transformers text models, with the pooling that their own files prescribe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from sentence_transformers import SentenceTransformer

from twinlens.cards import SentenceTransformersTower
from twinlens.encoders.base import Loaded, count_parameters
from twinlens.encoders.weights import hub_folder, local_checkpoint
from twinlens.errors import DataError
from twinlens.placement import Placement

FILES = ["*.json", "*.txt", "*.model", "*/config.json", "*/model.safetensors"]
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def locate(card: SentenceTransformersTower) -> Path:
    """The model's folder.

    Raises:
        FetchError: it cannot be had.
        DataError: the folder does not say how to pool.
    """
    folder = local_checkpoint(card)
    if folder is None:
        for name in WEIGHTS:
            folder = hub_folder(card.sentence_transformers, card.revision, [*FILES, name])
            if (folder / name).exists():
                break
    assert folder is not None
    if not (folder / "modules.json").exists():
        # the library would silently take the mean over tokens, which is wrong for every CLS model
        raise DataError(f"{folder} has no modules.json, so it does not say how its vectors are pooled")
    return folder


def load(card: SentenceTransformersTower, path: Path, placement: Placement, random_weights: bool = False) -> Loaded:
    """The text tower."""
    model = SentenceTransformer(str(path), device=str(placement.device), local_files_only=True)
    return Loaded(None, _Text(model.to(placement.dtype).eval(), card.prompt))


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
            prompt=self.prompt or None,
            batch_size=len(texts),
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return vectors.float().cpu()
