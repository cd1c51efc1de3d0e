"""Search results."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

Mode = Literal["vector", "text", "hybrid", "exemplar"]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Record of one picture in the index. Captions and labels are plain strings, as their authors wrote them."""

    image_id: str
    captions: tuple[str, ...]  # human
    caption_generated: str | None
    labels: tuple[str, ...]
    thumbnail: bytes  # JPEG

    def to_dict(self) -> dict[str, Any]:
        """Convert everything but the thumbnail to JSON-able values."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "thumbnail"}


@dataclass(frozen=True, kw_only=True)
class Hit(Picture):
    """One picture found."""

    rank: int  # from 1
    score: float  # what it measures depends on the mode: see `Searcher.search`
    # Of the answers that are as sure, at least this share has the right picture first; 0: no promise; None: not known.
    # Only the first picture has it. It says nothing of whether the right one is there at all.
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """The answer to one query."""

    hits: tuple[Hit, ...]  # best first
    mode: Mode  # what `auto` came to, too
    dataset: str
    model: str
    captioner: str
    seconds: dict[str, float]  # `load` (models, once), `embed` (the query), `search`, `read` (what is shown)
    notes: tuple[str, ...]  # what the asker should know, such as a query that was cut

    def to_dict(self) -> dict[str, Any]:
        """Convert everything but the thumbnails to JSON-able values."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {
            "hits": [hit.to_dict() for hit in self.hits]
        }
