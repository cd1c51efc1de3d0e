"""Texts on a CUDA device: the embedding loop beside the bare text tower over tokens that are in its memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.cuda_embedding import SMALL, build, own_scratch
from benchmarks.paired import Row, alternate, median, ratio
from twinlens.core.device import Placement
from twinlens.core.scratch import Scratch
from twinlens.inference.loop import choose_batch_size, choose_part_size, embed_texts
from twinlens.models.encoders.clip_bpe import ClipBpe
from twinlens.models.encoders.open_clip import encode_cut_text

TEXTS = 20_480
WORDS = """
a an the two several man woman child dog cat horse bus train surfboard kitchen street beach mountain giraffe pizza
umbrella bicycle skateboarder snowboard toothbrush refrigerator standing sitting riding holding eating walking red blue
wooden crowded sunny with on in near behind under and of while next to his her their's
"""


def write_captions(count: int) -> list[str]:
    """Write texts of five to twenty words, as captions have, each another."""
    rng, words = np.random.default_rng(0), WORDS.split()
    return [f"{' '.join(rng.choice(words, size=int(rng.integers(5, 21))))} {n}." for n in range(count)]


def measure(placement: Placement, prepared: Path, index: pl.DataFrame, small: bool) -> Iterator[Row]:
    """Rows of a text tower with random weights; `small` takes a small one. The pictures are not used."""
    del prepared, index
    name, count = (SMALL, 256) if small else ("ViT-L-14", TEXTS)
    encoder: Any = build(name, placement).text
    texts = write_captions(count)
    batch, per_part = choose_batch_size(placement, texts=True), choose_part_size(placement, texts=True)
    batches = _tokens(encoder, texts, batch, per_part, placement)
    seconds: list[float] = []

    def bare() -> None:
        with torch.inference_mode():
            for tokens in batches:
                encode_cut_text(encoder.model, tokens)

    def whole() -> None:
        with Scratch("bench", f"{len(seconds)}") as scratch:
            embed_texts(encoder, texts, texts, scratch, placement)
            seconds.append(scratch.total("seconds"))

    with own_scratch():
        taken = alternate({"bare": bare, "whole": whole}, 1 if small else 5)
    yield Row(
        f"embed {count:,} texts, {name}, {placement.name}, batch {batch}",
        f"{count / median(taken, 'whole'):,.0f} texts/s",
        f"bare text tower {count / median(taken, 'bare'):,.0f} texts/s",
        f"{ratio(taken, 'bare', 'whole'):.3f} of it",
        "at least 0.50",
    )
    some = texts[: 64 if small else 4096]

    def own() -> None:
        with torch.inference_mode():
            for start in range(0, len(some), batch):
                tokens = encoder.tokenizer(some[start : start + batch]).to(placement.device)
                encoder.model.encode_text(tokens).float().cpu()

    taken = alternate({"own": own}, 1)
    theirs, ours = len(some) / median(taken, "own"), count / seconds[-1]
    yield Row(
        f"the same by open_clip's own tokenizer and `encode_text`, {len(some):,} texts",
        f"{theirs:,.0f} texts/s",
        f"the loop {ours:,.0f} texts/s",
        f"{ours / theirs:.1f} times as fast",
    )


def _tokens(encoder: Any, texts: list[str], batch: int, per_part: int, placement: Placement) -> list[torch.Tensor]:
    """The batches of the loop, on the device."""
    compiled, found = ClipBpe(encoder.tokenizer), []
    for start in range(0, len(texts), per_part):
        tokens = compiled.encode(texts[start : start + per_part])
        tokens.sort(key=len)
        for at in range(0, len(tokens), batch):
            padded = compiled.pad(tokens[at : at + batch], encoder.max_tokens)
            found.append(torch.from_numpy(padded).to(placement.device))
    return found
