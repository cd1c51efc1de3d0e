"""Embedding job of one tower: resumable, its vectors kept per tower rather than per card.

Two cards that share a tower, or one card under another captioner, find the finished vectors in the
scratch folder, because the key says what decides them and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import torch

from twinlens.config.models import Tower
from twinlens.config.params import ComputeParams
from twinlens.config.sentence_models import Role, SentenceTransformersTower
from twinlens.core.code import code_digest
from twinlens.core.costs import Cost
from twinlens.core.device import Placement
from twinlens.core.probes import Probe, choose_rows
from twinlens.core.scratch import Scratch, digest, fingerprint
from twinlens.core.tables import VECTORS, write_table
from twinlens.core.vectors import normalise_rows, read_vectors
from twinlens.engines.base import Engine
from twinlens.engines.local import LocalEngine
from twinlens.inference import probe
from twinlens.inference.batches import measure_changed_tops
from twinlens.inference.loop import choose_part_size, collect, show_progress
from twinlens.inference.parts import Finished, accept, list_missing, slice_pictures, slice_texts
from twinlens.inference.tower_worker import TowerWorker, probe_pictures, probe_texts
from twinlens.models import encoders
from twinlens.models.encoders.base import LoadedEncoders

R = TypeVar("R")

PROBE = "probe.npz"

log = logging.getLogger("twinlens")

PACKAGES = {  # that decide a vector, beside torch
    "open_clip": ("open_clip_torch", "transformers", "tokenizers"),
    "timm": ("timm",),
    "sentence_transformers": ("sentence-transformers", "transformers", "tokenizers"),
    "multi_vector": ("sentence-transformers", "transformers", "tokenizers"),
    "torchvision": ("torchvision",),
    "transformers": ("transformers", "tokenizers"),
    "jina_clip": ("timm", "transformers", "tokenizers"),
    "own_code": (),  # those of its environment, which `identify` gives
    "word_vectors": ("numpy", "polars", "regex"),
    "vectors": ("numpy", "pyarrow"),
}
NOT_IDENTITY = {"checkpoint", "word_vectors", "sha256", "revision"}  # the weights' own digest says it better


class TowerJob:
    """A tower with its weights, loaded when the first vector is missing."""

    prompt: str | None = None  # other than the tower's own
    worker_kind = TowerWorker  # what makes its parts

    def __init__(
        self,
        tower: Tower,
        weights: Path,
        placement: Placement,
        compute: ComputeParams,
        cost: Cost,
        engine: Engine | None = None,
    ) -> None:
        """Take a tower and its weights, and who works on its parts: this process, if nobody else is named."""
        self.tower, self.weights, self.placement, self.compute, self.cost = tower, weights, placement, compute, cost
        self.engine = engine or LocalEngine(compute, placement)
        self.worker = self.worker_kind(tower, weights, placement, compute.image_batch, compute.text_batch)

    @cached_property
    def identity(self) -> dict[str, object]:
        """Identity of a vector: everything that decides it, besides its input."""
        return {
            "tower": self.tower.model_dump(mode="json", exclude=NOT_IDENTITY),
            "weights": encoders.identify(self.tower, self.weights),
            "placement": self.placement.name,
            "libraries": {name: version(name) for name in ("torch", *PACKAGES[self.tower.family])},
            "code": code_digest(__name__, f"twinlens.models.encoders.{self.tower.family}"),
        }

    @property
    def loaded(self) -> LoadedEncoders:
        """The encoders, loaded in this process; what a cluster is to do goes through `ask`."""
        return self.worker.prompted(self.prompt)

    def ask(self, function: Callable[..., R], *arguments: Any) -> R:
        """Ask whoever has loaded the tower `function(worker, *arguments)`; the function is a module's."""
        return self.engine.ask(self.worker, function, *arguments)

    def in_role(self, role: Role) -> TowerJob:
        """The job of the same tower for what asks, or for what is searched: a model is loaded once for both."""
        tower = self.tower
        if not isinstance(tower, SentenceTransformersTower) or not tower.has_roles:
            return self
        return _RoleJob(self, tower.in_role(role))

    def pictures(self, name: str, shards: Path, pool: pl.DataFrame, out: Path) -> None:
        """Embed pictures, or pictures with texts, into `out` as `<name>.npy` and `<name>.parquet`."""
        with self.parts_of_pictures(shards, pool) as scratch:
            self._collect(name, scratch, _name_rows(pool).select("id", "image_id"), out)

    def texts(self, name: str, texts: pl.DataFrame, out: Path) -> None:
        """Embed texts (`id`, `image_id`, `text`) into `out` as `<name>.npy` and `<name>.parquet`."""
        with self.parts_of_texts(texts) as scratch:
            self._collect(name, scratch, texts, out, **count_cut_texts(name, scratch, len(texts)))

    @contextmanager
    def parts_of_pictures(self, shards: Path, pool: pl.DataFrame) -> Iterator[Scratch]:
        """Vectors of pictures in parts, and their probe, as the tower gives them; made where they are missing.

        Where `pool` has `text`, they are of each picture together with its text.
        """
        words = {"texts": digest(pool["text"])} if "text" in pool.columns else {}
        key = fingerprint(pictures=digest(pool["sha256"]), ids=digest(pool["image_id"]), **words, **self.identity)
        with Scratch("embed", key, self.compute.parts) as scratch:
            size, rows = choose_part_size(self.placement, texts=False), _name_rows(pool)
            if spans := list_missing(len(pool), size, scratch):
                parts = slice_pictures(rows, spans, scratch.open_store(), shards, size, self.prompt)
                with show_progress("embed pictures", "img", len(pool), spans) as bar:
                    self._accept(scratch, self.engine.map(self.worker, parts, bar))
            if not scratch.has(PROBE):
                contents = pool.select(name for name in ("sha256", "text") if name in pool.columns).n_unique()
                chosen = rows[choose_rows(len(rows))]
                scratch.put(PROBE, self.ask(probe_pictures, shards, chosen, contents, self.prompt).write)
            yield scratch

    @contextmanager
    def parts_of_texts(self, texts: pl.DataFrame) -> Iterator[Scratch]:
        """Vectors of texts (`id`, `text`) in parts, and their probe, as the tower gives them."""
        key = fingerprint(texts=digest(texts["text"]), **self.identity)
        with Scratch("embed", key, self.compute.parts) as scratch:
            size, words, ids = choose_part_size(self.placement, texts=True), texts["text"], texts["id"]
            if spans := list_missing(len(texts), size, scratch):
                parts = slice_texts(words, ids, spans, scratch.open_store(), size, self.prompt)
                with show_progress("embed texts", "text", len(texts), spans) as bar:
                    self._accept(scratch, self.engine.map(self.worker, parts, bar))
            if not scratch.has(PROBE):
                scratch.put(PROBE, self.ask(probe_texts, probe.choose_texts(texts), self.prompt).write)
            yield scratch

    def _accept(self, scratch: Scratch, results: Iterable[Finished]) -> None:
        for finished in results:
            if not scratch.has("tower.note"):
                scratch.note("tower", parameters=finished.parameters)
            accept(scratch, [finished])
        if self.engine.workers:
            scratch.note("engine", workers=self.engine.workers)

    def _collect(self, name: str, scratch: Scratch, ids: pl.DataFrame, out: Path, **figures: float) -> None:
        found = Probe.read(scratch.path(PROBE)).transform(normalise_rows)
        dim = collect(scratch, len(ids), out / f"{name}.npy")
        write_ids(name, ids, found, out)
        self.note_cost(name, scratch, len(ids), dim, **figures, **find_changed_tops(name, found, out))
        if self.placement.device.type == "cuda":
            torch.cuda.empty_cache()

    def note_cost(self, name: str, scratch: Scratch, items: int, dim: int, **figures: float) -> None:
        """Record what the vectors of a source took, and in what share of that the device had nothing to do."""
        seconds, idle = scratch.total("seconds"), scratch.total("idle")
        if idle:  # a device was at work here
            figures["idle_share"] = idle / seconds
        if decoded_on_cpu := int(scratch.total("decoded_on_cpu")):
            figures["decoded_on_cpu"] = decoded_on_cpu
        if workers := int(scratch.total("workers")):  # the seconds are theirs together
            figures["workers"] = workers
        self.cost.add(
            name,
            seconds=seconds,
            items=items,
            parameters=int(scratch.total("parameters")),
            dim=dim,
            vector_bytes=4 * dim,
            **figures,
        )


class _RoleJob(TowerJob):
    """A tower with the prompt of a role, whose model another job has."""

    def __init__(self, job: TowerJob, tower: SentenceTransformersTower) -> None:
        super().__init__(tower, job.weights, job.placement, job.compute, job.cost, job.engine)
        self.worker, self.prompt = job.worker, tower.prompt


def _name_rows(pool: pl.DataFrame) -> pl.DataFrame:
    """Rows of pictures with an `id`: the picture's, where they have none of their own."""
    return pool if "id" in pool.columns else pool.with_columns(pl.col("image_id").alias("id"))


def count_cut_texts(name: str, scratch: Scratch, count: int) -> dict[str, int]:
    """Count, and log, the texts the tower could not read to their end, and (where there are any) not at all."""
    truncated, unknown = int(scratch.total("truncated")), int(scratch.total("unknown"))
    if truncated:
        log.info("%s: %s of %s texts are longer than the tower reads", name, f"{truncated:,}", f"{count:,}")
    if unknown:
        log.warning(
            "%s: %s of %s texts hold no word that the tower knows; they all get the same vector",
            name,
            f"{unknown:,}",
            f"{count:,}",
        )
    return {"truncated": truncated} | ({"unknown": unknown} if unknown else {})


def find_changed_tops(name: str, found: Probe, out: Path) -> dict[str, float]:
    """Find whether the batch changes what is found, as a figure of a source; none where numbers are float32."""
    if found.exact:
        return {}
    rows = read_vectors(out, name).rows
    return {"changed_tops": measure_changed_tops(found.alone, choose_rows(len(rows)), rows)}


def write_ids(name: str, ids: pl.DataFrame, found: Probe, out: Path) -> None:
    """Write what stands beside the vectors of a source: their ids (`id`, `image_id`) and their probe."""
    named = ids["id"].gather(choose_rows(len(ids))).to_list()  # the scratch knows contents, not ids
    replace(found, ids=named).write(out / f"{name}.probe.npz")
    write_table(ids, out / f"{name}.parquet", VECTORS)
