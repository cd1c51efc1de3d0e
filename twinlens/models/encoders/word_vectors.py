"""Word vectors (fastText, GloVe) as a text tower: the vectors of a text's words, pooled.

A text is cut into runs of letters, marks and digits; a compound (t-shirt, don't, 3.5) is looked up whole
first and in pieces where the file does not know it. Words without a vector are left out. A text of
which no word is known gets the mean of all words' vectors, because a zero vector has no direction; such
texts are counted (`token_counts` says 0, `embed` warns).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import regex
import torch
from jaxtyping import Float32, Int64

from twinlens.config.base import Weights
from twinlens.config.models import WordVectorsTower
from twinlens.core.device import Placement
from twinlens.core.errors import ParamsError
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.encoders.word_table import WordTable, read_words
from twinlens.models.weights import find_local_checkpoint

PIECE = regex.compile(r"[\p{L}\p{M}\p{N}]+")
COMPOUND = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['\-.][\p{L}\p{M}\p{N}]+)*")
PADDING = 0


def locate(card: WordVectorsTower) -> Path:
    """Locate the file of vectors.

    Raises:
        FetchError: it is not there.
        DataError: its SHA-256 is not the card's.
    """
    path = find_local_checkpoint(Weights(checkpoint=card.word_vectors, sha256=card.sha256))
    assert path is not None
    return path


def load(card: WordVectorsTower, path: Path, placement: Placement, random_weights: bool = False) -> LoadedEncoders:
    """Load the text tower. It stays on the CPU: looking words up is all it does.

    Raises:
        DataError: the file holds something other than words and vectors.
    """
    return LoadedEncoders(None, WordVectors(card, read_words(path)))


class WordVectors:
    """A text tower that also offers the words one by one, for a head that reads them in order.

    Attributes:
        table: vectors by row, float32; row 0 is zeros, for padding. Mapped from a file: a change stays
            with this process.
        max_tokens: known words of a text that are read, the first ones.
    """

    def __init__(self, card: WordVectorsTower, words: WordTable) -> None:
        self.card, self.rows = card, words.rows
        self.table: Float32[torch.Tensor, "words dim"] = torch.from_numpy(words.table)
        self.fallback: Float32[torch.Tensor, " dim"] = torch.from_numpy(words.mean)
        self.max_tokens = card.max_words
        self.parameters = len(words.rows) * self.table.shape[1]

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Known words of each text, before anything is cut off."""
        return [len(self._known(text)) for text in texts]

    def lookup(self, texts: Sequence[str]) -> Int64[torch.Tensor, "texts max_words"]:
        """Rows of `table` for the known words of each text, in order, padded with 0 at the end."""
        found = torch.full((len(texts), self.max_tokens), PADDING, dtype=torch.int64)
        for row, text in zip(found, texts, strict=True):
            known = self._known(text)[: self.max_tokens]
            row[: len(known)] = torch.tensor(known, dtype=torch.int64)
        return found

    def encode(self, texts: Sequence[str]) -> Float32[torch.Tensor, "texts dim"]:
        """Mean or sum of the vectors of each text's words; the mean of all words where none is known.

        Raises:
            ParamsError: the card says `pooling: none`.
        """
        if self.card.pooling == "none":
            raise ParamsError(
                f"{self.card.word_vectors}: `pooling: none` leaves a text's words apart, so a text has no vector; "
                "write `pooling: mean` or `sum` on the card, or `train` a head that reads words"
            )
        rows = self.lookup(texts)
        count = (rows != PADDING).sum(dim=1, keepdim=True)
        # always `max_words` wide, so that the sum's order, and its last digit, is the same in every batch
        pooled = self.table[rows].sum(dim=1)
        if self.card.pooling == "mean":
            pooled = pooled / count.clamp(min=1)
        return torch.where(count > 0, pooled, self.fallback)

    def _known(self, text: str) -> list[int]:
        text = unicodedata.normalize("NFC", text).replace("\u2019", "'")
        if self.card.lowercase:
            text = text.lower()
        found: list[int] = []
        for compound in COMPOUND.findall(text):
            whole = self.rows.get(compound)
            pieces = [self.rows.get(piece) for piece in PIECE.findall(compound)] if whole is None else [whole]
            found += [row for row in pieces if row is not None]
        return found
