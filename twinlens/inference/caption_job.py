"""Captioning job: captions kept as a whole, so that finished work loads neither the model nor its library."""

from __future__ import annotations

import json
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

import polars as pl
import torch

from twinlens.config.captioners import CaptionerCard
from twinlens.config.params import ComputeParams
from twinlens.core.code import code_digest
from twinlens.core.device import Placement
from twinlens.core.scratch import Scratch, digest, fingerprint
from twinlens.models.weights import identify_weights

if TYPE_CHECKING:
    from twinlens.models.captioners.prompted import PromptedCaptioner
    from twinlens.models.captioners.transformers import Captioner

WORDS = "words.json"  # the captions of all pictures, beside their parts


class CaptionJob:
    """A captioner with its weights, loaded when the first caption is missing."""

    def __init__(self, card: CaptionerCard, weights: Path, placement: Placement, compute: ComputeParams) -> None:
        self.card, self.weights, self.placement, self.compute = card, weights, placement, compute

    @cached_property
    def loaded(self) -> Captioner | PromptedCaptioner:
        """The captioner."""
        if self.card.captioner == "transformers":
            from twinlens.models.captioners import prompted  # imports its library, which takes seconds

            return prompted.load(self.card, self.weights, self.placement)
        from twinlens.models.captioners import transformers as captioners

        return captioners.load(self.card, self.weights, self.placement)

    def key(self, pictures: pl.DataFrame) -> str:
        """Make a key of everything that decides the words on pictures with `sha256`."""
        said, libraries = {"captioner", "max_new_tokens", "num_beams"}, ["transformers"]
        modules = ["twinlens.inference.caption", "twinlens.models.captioners.transformers"]
        if self.card.captioner == "transformers":
            said |= {"prompt", "system", "max_side_px"}
            libraries += ["tokenizers", "torchvision", "pillow"]  # of its processors
            modules = ["twinlens.inference.caption_prompted", "twinlens.models.captioners.prompted"]
        return fingerprint(
            card=self.card.model_dump(mode="json", include=said),
            weights=identify_weights(self.weights),
            pictures=digest(pictures["sha256"]),
            placement=self.placement.name,
            libraries=[torch.__version__, *map(version, libraries)],
            code=code_digest(*modules),
        )

    def write(self, shards: Path, pictures: pl.DataFrame, scratch: Scratch) -> list[str]:
        """Write one caption per picture, in their order; beside the parts stands how many parameters wrote them.

        Args:
            shards: folder of the `resize` stage.
            pictures: `image_id`, `shard`, `row`.
            scratch: where what is finished is kept.
        """
        if not scratch.has(WORDS):
            texts = self._caption(shards, pictures, scratch)
            scratch.note(WORDS, parameters=self.loaded.parameters)
            scratch.put(WORDS, lambda path: _write(path, json.dumps(texts)))
        words: list[str] = json.loads(scratch.path(WORDS).read_text(encoding="utf-8"))
        return words

    def _caption(self, shards: Path, pictures: pl.DataFrame, scratch: Scratch) -> list[str]:
        batch, threads = self.compute.image_batch, self.compute.decode_threads
        if self.card.captioner == "transformers":
            from twinlens.inference.caption_prompted import caption_by_prompt

            return caption_by_prompt(cast("PromptedCaptioner", self.loaded), shards, pictures, scratch, batch=batch)
        from twinlens.inference.caption import caption_pictures

        captioner = cast("Captioner", self.loaded)
        return caption_pictures(captioner, shards, pictures, scratch, batch=batch, decode_threads=threads)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
