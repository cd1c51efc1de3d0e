"""Towers of sentence-transformers: models of one vector for an input, and of one for each token."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from twinlens.config.base import Weights
from twinlens.config.numbers import Count

Role = Literal["query", "item"]  # what asks, and what is searched


class SentenceTransformersTower(Weights):
    """A sentence-transformers model with its own pooling: of texts, or of pictures, texts and both together."""

    family: ClassVar[str] = "sentence_transformers"
    sentence_transformers: str  # hub repository
    prompt: str = ""  # put before every text; where the model is asked by messages, its instruction, of pictures too
    query_prompt: str | None = None  # of what asks, in place of `prompt`
    item_prompt: str | None = None  # of what is searched: pictures, and texts that stand for them
    dimensions: Count | None = None  # the first ones of each vector, where the model was trained for it (matryoshka)

    @property
    def has_roles(self) -> bool:
        """Whether what asks and what is searched have prompts of their own."""
        return self.prompt_of("query") != self.prompt_of("item")

    def prompt_of(self, role: Role) -> str:
        """The prompt of what asks, or of what is searched."""
        own = self.query_prompt if role == "query" else self.item_prompt
        return self.prompt if own is None else own

    def in_role(self, role: Role) -> SentenceTransformersTower:
        """The tower with one prompt for all: that of a role."""
        return self.model_copy(update={"prompt": self.prompt_of(role), "query_prompt": None, "item_prompt": None})


class MultiVectorTower(SentenceTransformersTower):
    """A sentence-transformers model of token vectors (ColBERT, ColPali and their kind): a matrix for each input.

    Prompts that the card does not name are the model's own, as they mark what asks and what is searched.
    """

    family: ClassVar[str] = "multi_vector"
    key: ClassVar[str] = "sentence_transformers"  # that names it on a card
    token_vectors: Literal[True]

    @model_validator(mode="after")
    def _whole_tokens(self) -> Self:
        if self.dimensions is not None:
            raise ValueError("`dimensions` shortens one vector; with `token_vectors` there are many: leave it out")
        return self

    @property
    def multi_vector(self) -> str:
        """The hub repository."""
        return self.sentence_transformers
