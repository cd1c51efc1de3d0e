"""sentence-transformers models of token vectors: ColBERT and its kind for texts, ColPali and its kind for pictures.

Which tokens count is the library's to say (`MultiVectorMask`): queries are lengthened by tokens of their own where the
model does that, punctuation and whatever else its files name is left out of what is searched. What reads one vector for
an input (a first search, the search page) gets the mean of its token vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from sentence_transformers import MultiVectorEncoder

from twinlens.config.sentence_models import MultiVectorTower, Role
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.models.encoders.base import LoadedEncoders, place
from twinlens.models.encoders.sentence_transformers import (
    UNSAID,
    PictureReader,
    Reader,
    TextReader,
    refuse_module_gaps,
)
from twinlens.models.locations.multi_vector import list_module_folders
from twinlens.models.native import NativeBatch, move_features
from twinlens.models.state_dicts import allow_harmless_types, collect_reports
from twinlens.models.token_batch import TokenBatch
from twinlens.models.weights import UNREADABLE, give_reason, refuse_wordless

TASKS: dict[Role, str] = {"query": "query", "item": "document"}  # as the library calls them
PROMPTS: dict[Role, tuple[str, ...]] = {"query": ("query",), "item": ("document", "passage", "corpus")}


def load(card: MultiVectorTower, path: Path, placement: Placement, random_weights: bool = False) -> LoadedEncoders:
    """Load the towers: texts as what asks, and where the model reads pictures, those as what is searched.

    Raises:
        DataError: the folder does not hold such a model.
    """
    try:
        with allow_harmless_types(), collect_reports() as reports:
            model = MultiVectorEncoder(str(path), device=str(placement.device), local_files_only=True)
        refuse_module_gaps(model, list_module_folders(path), path, reports)
    except (*UNREADABLE, ImportError, TypeError) as error:
        raise DataError(f"{path} does not hold a model of token vectors: {give_reason(error)}") from None
    refuse_wordless(model.tokenizer, path)
    model = place(model, placement)
    text = TokenTexts(model, card, placement, "query")
    pictures = TokenPictures(model, card, placement, "item") if model.supports("image") else None
    return LoadedEncoders(None, text, native=pictures)


def put_role(loaded: LoadedEncoders, role: Role) -> LoadedEncoders:
    """The encoders of the same model for what asks, or for what is searched."""

    def again(one: Any) -> Any:
        return None if one is None else type(one)(one.model, one.card, one.placement, role)

    return replace(loaded, text=again(loaded.text), native=again(loaded.native))


def find_prompt(model: MultiVectorEncoder, card: MultiVectorTower, role: Role) -> str:
    """Find the prompt of a role: the card's, or else the model's own."""
    own = next((model.prompts[name] for name in PROMPTS[role] if name in model.prompts), None)
    return card.prompt_of(role) or own or ""


class _Tokens(Reader):
    """One model in one role."""

    model: Any

    def __init__(self, model: MultiVectorEncoder, card: MultiVectorTower, placement: Placement, role: Role) -> None:
        self.card, self.role = card, role
        super().__init__(model, find_prompt(model, card, role), None, placement)  # type: ignore[arg-type]

    def read_inputs(self, inputs: list[Any]) -> dict[str, Any]:
        """Read inputs as the library does for this role."""
        found: dict[str, Any] = self.model.preprocess(inputs, prompt=self.prompt, task=TASKS[self.role])
        return found

    def encode_features(self, features: dict[str, Any]) -> Float32[torch.Tensor, "inputs dim"]:
        """The mean of the token vectors of what was read."""
        return self.encode_token_features(features).pool()

    def encode_token_features(self, features: dict[str, Any]) -> TokenBatch:
        """Token vectors of what was read."""
        moved = move_features(features, self.placement.device, self.placement.dtype)
        found = self.model(moved, task=TASKS[self.role])
        return TokenBatch(found["token_embeddings"], found["attention_mask"].bool())


class TokenTexts(_Tokens, TextReader):
    """Texts, as an encoder reads them (`base.TextEncoder`), and their token vectors."""

    def __init__(self, model: MultiVectorEncoder, card: MultiVectorTower, placement: Placement, role: Role) -> None:
        super().__init__(model, card, placement, role)
        self.max_tokens = find_limit(model, role, self.max_tokens)

    def encode_tokens(self, texts: Sequence[str]) -> TokenBatch:
        """See `TokenTextEncoder.encode_tokens`."""
        return self.encode_token_features(self.read_texts(texts))

    def _count_around(self) -> int:
        if self._around is None:
            word = "a"
            alone = self.model.tokenizer([self.prompt + word], truncation=False, verbose=False).input_ids[0]
            read = self.read_inputs([self._as_input(word)])
            added = read.get("query_expansion_positions")  # no part of the text, whether they are attended to or not
            own = read["attention_mask"].bool() if added is None else read["attention_mask"].bool() & ~added.bool()
            self._around = max(0, int(own.sum()) - len(alone))
        return self._around


class TokenPictures(_Tokens, PictureReader):
    """Pictures, as an encoder reads them (`base.NativeEncoder`), and their token vectors."""

    def encode_tokens(self, batch: NativeBatch) -> TokenBatch:
        """Token vectors of a batch."""
        return self.encode_token_features(self.features_of(batch))


def find_limit(model: MultiVectorEncoder, role: Role, said: int) -> int:
    """Find how many tokens of a text are read in a role.

    Args:
        model: with its modules.
        role: whether texts ask or are searched.
        said: what its tokenizer says.
    """
    first: Any = model[0]
    limits = [said, getattr(first, "query_length" if role == "query" else "document_length", None)]
    expansion = getattr(first, "query_expansion", None) or {}
    if role == "query" and expansion.get("strategy") == "fixed":  # longer ones are cut to it
        limits.append(expansion["length"])
    if said > UNSAID:
        limits.append(getattr(model.config.get_text_config(), "max_position_embeddings", None))
    return min(limit for limit in limits if limit is not None)
