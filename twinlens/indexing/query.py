"""Checked queries, and the default weight of their words."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from twinlens.config.params import Params
from twinlens.core import paths

EVEN = 0.5  # of BM25 in a weighted hybrid, where nothing was chosen
# Runs with the words that the index holds: human and generated captions, or those of one kind where there is but one.
EVALUATED = tuple(f"hybrid_{words}_weighted" for words in ("captions_and_generated", "captions", "generated"))


@dataclass
class CheckedQuery:
    """A query that was checked."""

    text: str | None
    jpeg: bytes | None
    likes: list[int]
    unlikes: list[int]
    image_weight: float
    text_weight: float
    fusion: str
    k: int
    notes: list[str]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the seconds that the block takes to those of a part."""
        started = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    @property
    def left_out(self) -> list[int]:
        """Rows that are not wanted among the results."""
        return [*self.likes, *self.unlikes]

    @property
    def shows(self) -> bool:
        """Whether there is a picture to start from."""
        return self.jpeg is not None or bool(self.likes)


def read_text_weight(params: Params, dataset: str, model: str) -> float:
    """Read BM25's share of a weighted hybrid.

    Returns:
        `search.text_weight`; where that is empty, the weight that `rank` chose on validation data for the same
        dataset and model, words to pictures; where it chose none, a half.
    """
    if params.search.text_weight is not None:
        return params.search.text_weight
    for retriever in EVALUATED:
        path = paths.ranked(dataset, model) / "caption_to_image" / "runs" / f"{retriever}.json"
        try:
            chosen = json.loads(path.read_text(encoding="utf-8"))["chosen"]
        except (OSError, ValueError, KeyError):  # not ranked yet, or being ranked
            continue
        if chosen["validation_queries"]:
            return round(1.0 - float(chosen["image_weight"]), 6)
    return EVEN
