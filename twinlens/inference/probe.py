"""Making of probes: a few pictures or texts of a source embedded again, one by one, as the tower gives them.

Whoever stores a source's vectors brings its probe to unit length (or through a head) as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32

from twinlens.core import probes
from twinlens.core.device import Placement
from twinlens.core.shards import iter_pixels
from twinlens.core.vectors import normalise_rows
from twinlens.inference.device_pixels import make_reader
from twinlens.models.encoders.base import ImageEncoder, NativeEncoder, TextEncoder

SEARCHED = 256  # texts among which the longest that fits is looked for


def probe_pictures(
    encoder: ImageEncoder, shards: Path, rows: pl.DataFrame, placement: Placement, contents: int
) -> probes.Probe:
    """Embed probes of chosen pictures (`image_id`, `shard`, `row`, `sha256`); `contents` of all are different."""
    read = make_reader(encoder.pixels, placement)
    with torch.inference_mode():
        alone = [encoder.encode(read([jpeg])) for _, jpeg in iter_pixels(shards, rows)]
    vectors = torch.cat(alone).cpu().numpy()
    return probes.Probe(
        rows["image_id"].to_list(), vectors, vectors[:0], float("nan"), contents, placement.dtype == torch.float32
    )


def probe_native(
    encoder: NativeEncoder, shards: Path, rows: pl.DataFrame, placement: Placement, contents: int
) -> probes.Probe:
    """Embed probes of chosen pictures at their own size, or of pictures with texts (`id`, ..., `sha256`, `text`)."""
    texts = rows["text"].to_list() if "text" in rows.columns else [None] * len(rows)
    with torch.inference_mode():
        alone = [
            encoder.encode(encoder.read([jpeg], None if text is None else [text]))
            for (_, jpeg), text in zip(iter_pixels(shards, rows), texts, strict=True)
        ]
    vectors = torch.cat(alone).cpu().numpy()
    exact = placement.dtype == torch.float32
    return probes.Probe(rows["id"].to_list(), vectors, vectors[:0], float("nan"), contents, exact)


@dataclass(frozen=True)
class ChosenTexts:
    """Texts of a source by which it is probed."""

    ids: list[str]
    texts: list[str]
    longest: str  # of all
    searched: list[str]  # among which the longest that fits is looked for
    contents: int  # different ones among all


def choose_texts(table: pl.DataFrame) -> ChosenTexts:
    """Choose those of a source (`id`, `text`)."""
    rows, texts = table[probes.choose_rows(len(table))], table["text"].to_list()
    step = max(1, len(texts) // SEARCHED)
    longest = str(max(texts, key=len))
    return ChosenTexts(rows["id"].to_list(), rows["text"].to_list(), longest, texts[::step], table["text"].n_unique())


def probe_texts(encoder: TextEncoder, chosen: ChosenTexts, placement: Placement) -> probes.Probe:
    """Embed probes of texts."""
    alone = _first(encoder, [[text] for text in chosen.texts])
    beside = _first(encoder, [[text, chosen.longest] for text in chosen.texts])
    exact = placement.dtype == torch.float32
    last = measure_last_word(encoder, chosen.searched)
    return probes.Probe(chosen.ids, alone, beside, last, chosen.contents, exact)


def measure_last_word(encoder: TextEncoder, texts: Sequence[str]) -> float:
    """Measure how the vector of the longest text that fits moves without its last word: 1 - cosine, or NaN.

    A text whose last word is no token to the tower (word vectors know only what is in their file) can tell nothing.
    """
    some = [text for text in texts if len(text.split()) > 1]
    if not some:
        return float("nan")
    counts = encoder.token_counts(some)
    shorter = encoder.token_counts([_without_last(text) for text in some])
    fitting = [
        (count, text)
        for count, less, text in zip(counts, shorter, some, strict=True)
        if less < count <= encoder.max_tokens
    ]
    if not fitting:
        return float("nan")
    whole = max(fitting)[1]
    one, other = normalise_rows(_first(encoder, [[whole], [_without_last(whole)]])).astype(np.float64)
    return float(1.0 - one @ other / np.sqrt((one @ one) * (other @ other)))


def _without_last(text: str) -> str:
    return text.rsplit(maxsplit=1)[0]


def _first(encoder: TextEncoder, batches: Sequence[list[str]]) -> Float32[np.ndarray, "batches dim"]:
    """The vector of each batch's first text."""
    with torch.inference_mode():
        return torch.cat([encoder.encode(batch)[:1] for batch in batches]).cpu().numpy()
