"""Captioning job: captions kept as a whole, so that finished work loads neither the model nor its library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl
import torch

from twinlens.config.captioners import CaptionerCard
from twinlens.config.params import ComputeParams
from twinlens.core.code import code_digest
from twinlens.core.device import Placement
from twinlens.core.part_store import Receipt
from twinlens.core.scratch import Scratch, digest, fingerprint
from twinlens.engines import Engine, LocalEngine, Seat
from twinlens.inference.caption_parts import CaptionTask, accept, list_missing, read_texts, show_progress
from twinlens.models.weights import identify_weights

if TYPE_CHECKING:
    from twinlens.models.captioners.prompted import PromptedCaptioner
    from twinlens.models.captioners.transformers import Captioner

WORDS = "words.json"  # the captions of all pictures, beside their parts


@dataclass
class CaptionWorker:
    """A captioner with its weights, loaded at the first task; what is pickled has loaded nothing."""

    card: CaptionerCard
    weights: Path
    placement: Placement
    batch: int | None

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: the fields."""
        return {name: value for name, value in vars(self).items() if name != "loaded"}

    @property
    def paths(self) -> tuple[Path, ...]:
        """What every machine has to see."""
        return (self.weights,)

    @cached_property
    def loaded(self) -> Captioner | PromptedCaptioner:
        """The captioner."""
        if self.card.captioner == "transformers":
            from twinlens.models.captioners import prompted  # imports its library, which takes seconds

            return prompted.load(self.card, self.weights, self.placement)
        from twinlens.models.captioners import transformers as captioners

        return captioners.load(self.card, self.weights, self.placement)

    def __call__(self, tasks: Iterable[CaptionTask], seat: Seat) -> Iterator[list[Receipt]]:
        """Caption the pictures of some tasks; gives the receipts of each.

        Raises:
            DataError: a picture is not as it was written.
            ResourceError: the device is no longer there, or memory or disk are full.
        """
        if self.card.captioner == "transformers":
            from twinlens.inference.caption_prompted import stream_prompted

            return stream_prompted(cast("PromptedCaptioner", self.loaded), tasks, seat, self.batch)
        from twinlens.inference.caption import stream_captions

        return stream_captions(cast("Captioner", self.loaded), tasks, seat, self.batch)


def count_parameters(worker: CaptionWorker) -> int:
    """Count the captioner's parameters; a question to a worker."""
    return worker.loaded.parameters


class CaptionJob:
    """Captions of pictures: those that are missing are written by workers.

    Args:
        card: the captioner.
        weights: the folder or file that has them.
        placement: where it runs.
        compute: the settings.
        engine: whose workers; this process if absent.
    """

    def __init__(
        self,
        card: CaptionerCard,
        weights: Path,
        placement: Placement,
        compute: ComputeParams,
        engine: Engine | None = None,
    ) -> None:
        self.card, self.weights, self.placement, self.compute = card, weights, placement, compute
        self.engine = engine or LocalEngine(compute, placement)

    @cached_property
    def worker(self) -> CaptionWorker:
        """The worker, which in this process keeps the captioner for what else there is to describe."""
        return CaptionWorker(self.card, self.weights.absolute(), self.placement, self.compute.image_batch)

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
            scratch.note(WORDS, parameters=self.engine.ask(self.worker, count_parameters))
            scratch.put(WORDS, lambda path: _write(path, json.dumps(texts)))
        words: list[str] = json.loads(scratch.open_store().read(WORDS).read_text(encoding="utf-8"))
        return words

    def _caption(self, shards: Path, pictures: pl.DataFrame, scratch: Scratch) -> list[str]:
        prompted = self.card.captioner == "transformers"
        if prompted:
            from twinlens.inference import caption_prompted

            per_part, per_task = caption_prompted.PICTURES_PER_PART, 1
        else:
            from twinlens.inference import caption

            per_part, per_task = caption.PICTURES_PER_PART, caption.choose_parts_per_task(self.compute.image_batch)
        tasks = list_missing(pictures, per_part, per_task, shards, scratch)
        with show_progress(pictures, tasks) as bar:
            accept(scratch, self.engine.map(self.worker, tasks, bar))
        texts = read_texts(pictures, per_part, scratch)
        if prompted:
            caption_prompted.tell_shortcomings(self.card.max_new_tokens, texts, int(scratch.total("cut")))
        return texts


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
