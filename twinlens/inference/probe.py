"""Making of probes: a few pictures or texts of a source embedded again, one by one, as the tower gives them.

Whoever stores a source's vectors brings its probe to unit length (or through a head) as well.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def probe_pictures(encoder: ImageEncoder, shards: Path, pool: pl.DataFrame, placement: Placement) -> probes.Probe:
    """Embed probes of pictures (`image_id`, `shard`, `row`, `sha256`)."""
    rows = pool[probes.choose_rows(len(pool))]
    read = make_reader(encoder.pixels, placement)
    with torch.inference_mode():
        alone = [encoder.encode(read([jpeg])) for _, jpeg in iter_pixels(shards, rows)]
    vectors = torch.cat(alone).cpu().numpy()
    contents = pool["sha256"].n_unique()
    return probes.Probe(
        rows["image_id"].to_list(), vectors, vectors[:0], float("nan"), contents, placement.dtype == torch.float32
    )


def probe_native(encoder: NativeEncoder, shards: Path, table: pl.DataFrame, placement: Placement) -> probes.Probe:
    """Embed probes of pictures at their own size, or of pictures with texts (`id`, ..., `sha256`, `text`)."""
    rows = table[probes.choose_rows(len(table))]
    texts = rows["text"].to_list() if "text" in rows.columns else [None] * len(rows)
    with torch.inference_mode():
        alone = [
            encoder.encode(encoder.read([jpeg], None if text is None else [text]))
            for (_, jpeg), text in zip(iter_pixels(shards, rows), texts, strict=True)
        ]
    vectors = torch.cat(alone).cpu().numpy()
    contents = table.select(name for name in ("sha256", "text") if name in table.columns).n_unique()
    exact = placement.dtype == torch.float32
    return probes.Probe(rows["id"].to_list(), vectors, vectors[:0], float("nan"), contents, exact)


def probe_texts(encoder: TextEncoder, table: pl.DataFrame, placement: Placement) -> probes.Probe:
    """Embed probes of texts (`id`, `text`)."""
    rows = table[probes.choose_rows(len(table))]
    texts, ids = rows["text"].to_list(), rows["id"].to_list()
    longest = str(max(table["text"], key=len))
    alone = _first(encoder, [[text] for text in texts])
    beside = _first(encoder, [[text, longest] for text in texts])
    contents = table["text"].n_unique()
    exact = placement.dtype == torch.float32
    return probes.Probe(ids, alone, beside, measure_last_word(encoder, table["text"].to_list()), contents, exact)


def measure_last_word(encoder: TextEncoder, texts: Sequence[str]) -> float:
    """Measure how the vector of the longest text that fits moves without its last word: 1 - cosine, or NaN.

    A text whose last word is no token to the tower (word vectors know only what is in their file) can tell nothing.
    """
    step = max(1, len(texts) // SEARCHED)
    some = [text for text in texts[::step] if len(text.split()) > 1]
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
