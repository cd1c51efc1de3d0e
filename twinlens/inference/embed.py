"""Embedding of the tasks' inputs by a card's encoders: towers, towers with heads, and both before training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from twinlens.config.models import ModelCard
from twinlens.config.params import ComputeParams
from twinlens.config.sentence_models import SentenceTransformersTower
from twinlens.config.training import HeadsRecipe, TowerRecipe
from twinlens.core.costs import Cost
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.engines.base import Engine
from twinlens.inference.conformity import KINDS, inspect_tower, name_tower, needs_inspection
from twinlens.inference.coverage import find_unreadable
from twinlens.inference.enlarged import detect_enlarged
from twinlens.inference.features import Features, HeadedJob, load_features
from twinlens.inference.jobs import make_job
from twinlens.inference.tower import TowerJob
from twinlens.inference.tower_worker import TowerWorker
from twinlens.models.checkpoints import locate_heads, locate_initial_weights, locate_weights
from twinlens.models.heads import CAPTION_TO_IMAGE, IMAGE_TO_CAPTION, ProjectionHeads
from twinlens.tasks.inputs import OTHER_WAY, UNTRAINED, Input, write_left_out

log = logging.getLogger("twinlens")

Job = TowerJob | HeadedJob
PAIRS = frozenset({"image", "text"})
READS = {  # what the towers of a role can read
    "joint": (frozenset({"image"}), frozenset({"text"})),
    "image": (frozenset({"image"}),),
    "text": (frozenset({"text"}),),
}


@dataclass(frozen=True)
class Embedder:
    """A card with its weights, and where they are run."""

    card: ModelCard
    trained: Path  # folder of the `train` stage
    placement: Placement
    compute: ComputeParams
    cost: Cost
    engine: Engine | None = None  # who works on the parts; this process, if nobody is named

    def inspect(self, sizes: pl.DataFrame) -> Iterator[tuple[str, str | None]]:
        """Look at every tower before the long work: each gate with what is wrong, in words.

        Args:
            sizes: `width`, `height` of the pictures as they are stored.

        The numbers that a card remembers are those of the weights it names, not of those that are trained from them.

        Raises:
            DataError: the weights are not those that `train` noted.
        """
        for role, job in self._jobs().items():
            if needs_inspection(job):
                found = inspect_tower(job, KINDS[role])
                yield "enlarged", detect_enlarged(sizes, found.needs, name_tower(job))
                for gate, trouble in found.troubles(job):
                    if gate != "golden" or not isinstance(self.card.train, TowerRecipe):
                        yield gate, trouble
        if isinstance(self.card.train, TowerRecipe) and not self.card.from_nothing:
            for role, job in self._initial_jobs().items():
                if needs_inspection(job):
                    yield from inspect_tower(job, KINDS[role]).troubles(job)

    def embed(self, inputs: Iterable[Input], shards: Path, out: Path) -> int:
        """Write the vectors and ids of every input that the card's towers can read.

        A trained model embeds some inputs once more as it was before training, so that what training gave can be
        measured on the same queries.

        Args:
            inputs: of the tasks.
            shards: folder of the `resize` stage, where the pictures lie.
            out: a folder.

        Returns:
            How many rows of the inputs were embedded, by one tower or several.

        Raises:
            DataError: the weights are not those that `train` noted, or a vector is useless.
        """
        wanted = [one for one in inputs if one.embedded]
        if isinstance(self.card.train, HeadsRecipe):
            return self._embed_by_heads(wanted, shards, out)
        embedded = set()
        jobs = self._jobs()
        work = {
            role: [one for one in wanted if _reads(job, one, role) and (role == "joint" or not one.shared)]
            for role, job in jobs.items()
        }
        left_out = _leave_out({role: (job, work[role]) for role, job in jobs.items()}, shards, out)
        for role, job in jobs.items():
            mine = [one for one in work[role] if one.name not in left_out]
            for one in mine:
                _embed(job.in_role("query" if one.asks else "item"), one, shards, out)
                if OTHER_WAY in one.again and job.in_role("query") is not job:  # prompts of their own
                    _embed(job.in_role("item" if one.asks else "query"), one, shards, out, OTHER_WAY)
            embedded |= {one.name for one in mine}
            if self.card.train is not None:
                _again(self._initial_jobs()[role], mine, UNTRAINED, shards, out)
        return sum(len(one.rows) for one in wanted if one.name in embedded)

    def _embed_by_heads(self, inputs: list[Input], shards: Path, out: Path) -> int:
        recipe = self.card.train
        assert isinstance(recipe, HeadsRecipe)
        by_length = recipe.by_length

        def through(pairs: ProjectionHeads, direction: str) -> HeadedJob:
            return HeadedJob(features, pairs, direction, self.placement, by_length=by_length)

        features = self._features
        pairs = ProjectionHeads.read(locate_heads(self.trained), features.table)
        job = through(pairs, CAPTION_TO_IMAGE)
        of_side = {
            "image": (features.image, [one for one in inputs if one.reads in READS["image"]]),
            "text": (features.text, [one for one in inputs if one.reads in READS["text"]]),
        }
        left_out = _leave_out(of_side, shards, out)
        mine = [one for one in inputs if one.reads in READS["joint"] and one.name not in left_out]
        for one in mine:
            _embed(job, one, shards, out)
        if IMAGE_TO_CAPTION in pairs.directions:
            _again(through(pairs, IMAGE_TO_CAPTION), mine, OTHER_WAY, shards, out)
        untrained = ProjectionHeads.read(locate_heads(self.trained, before=True), features.table)
        _again(through(untrained, CAPTION_TO_IMAGE), mine, UNTRAINED, shards, out)
        return sum(len(one.rows) for one in mine)

    @cached_property
    def _features(self) -> Features:
        weights = {role: locate_weights(role, self.card, self.trained) for role in self.card.towers()}
        return load_features(self.card, weights, self.placement, self.compute, self.cost, self.engine)

    @cached_property
    def _loaded_once(self) -> dict[bool, dict[str, TowerJob]]:
        return {}

    def _jobs(self) -> dict[str, TowerJob]:
        """The towers by role, each loaded once for all that is done with it."""
        if isinstance(self.card.train, HeadsRecipe):
            return {"image": self._features.image, "text": self._features.text}
        return self._located(locate_weights, initial=False)

    def _initial_jobs(self) -> dict[str, TowerJob]:
        """The same before training."""
        return self._located(locate_initial_weights, initial=True)

    def _located(self, locate: Callable[[str, ModelCard, Path], Path], initial: bool) -> dict[str, TowerJob]:
        if initial not in self._loaded_once:
            self._loaded_once[initial] = {
                role: make_job(
                    tower, locate(role, self.card, self.trained), self.placement, self.compute, self.cost, self.engine
                )
                for role, tower in self.card.towers().items()
            }
        return self._loaded_once[initial]


def _reads(job: TowerJob, one: Input, role: str) -> bool:
    """Whether a tower reads an input; which of them read pictures and words together is seen when they are loaded."""
    if one.reads == PAIRS:
        return isinstance(job.tower, SentenceTransformersTower) and role == "joint" and job.ask(_reads_pairs)
    return one.reads in READS[role]


def _reads_pairs(worker: TowerWorker) -> bool:
    return worker.loaded.reads_pairs


def _leave_out(work: Mapping[str, tuple[TowerJob, list[Input]]], shards: Path, out: Path) -> set[str]:
    """Find, tell and note the inputs that a tower has no vectors of; nothing is embedded before all are looked at.

    Raises:
        DataError: vectors are not fit for use, or none is left.
    """
    left_out: dict[str, str] = {}
    for job, inputs in work.values():
        left_out |= find_unreadable(job, inputs, shards)
    for name, why in left_out.items():
        log.warning("%s is not embedded: %s", name, why)
    if left_out and all(one.name in left_out for _, inputs in work.values() for one in inputs):
        raise DataError("none of the tasks' inputs has vectors: " + "; ".join(left_out.values()))
    write_left_out(left_out, out)
    return set(left_out)


def _embed(job: Job, one: Input, shards: Path, out: Path, suffix: str = "") -> None:
    if "image" in one.reads:
        job.pictures(f"{one.name}{suffix}", shards, one.rows, out)
    else:
        job.texts(f"{one.name}{suffix}", one.rows, out)


def _again(job: Job, inputs: Iterable[Input], suffix: str, shards: Path, out: Path) -> None:
    """The inputs that are wanted once more, as `<name><suffix>`."""
    for one in inputs:
        if suffix in one.again:
            _embed(job, one, shards, out, suffix)
