"""Embedding job of one tower: resumable, its vectors kept per tower rather than per card.

Two cards that share a tower, or one card under another captioner, find the finished vectors in the
scratch folder, because the key says what decides them and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import polars as pl
import torch

from twinlens.config.models import Tower
from twinlens.config.params import ComputeParams
from twinlens.config.sentence_models import Role, SentenceTransformersTower
from twinlens.core.code import code_digest
from twinlens.core.costs import Cost
from twinlens.core.device import Placement
from twinlens.core.errors import ParamsError
from twinlens.core.probes import Probe, choose_rows
from twinlens.core.scratch import Scratch, digest, fingerprint
from twinlens.core.tables import VECTORS, write_table
from twinlens.core.vectors import normalise_rows
from twinlens.inference import probe
from twinlens.inference.device_pixels import DevicePixels
from twinlens.inference.loop import (
    DeviceRoom,
    choose_part_size,
    collect,
    embed_pictures,
    embed_texts,
    is_complete,
)
from twinlens.inference.native_loop import embed_native
from twinlens.models import encoders
from twinlens.models.encoders.base import LoadedEncoders, NativeEncoder, put_prompt
from twinlens.models.folding import fold_blocks

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

    def __init__(self, tower: Tower, weights: Path, placement: Placement, compute: ComputeParams, cost: Cost) -> None:
        self.tower, self.weights, self.placement, self.compute, self.cost = tower, weights, placement, compute, cost
        self._room = DeviceRoom(), DeviceRoom()  # for pictures and for texts, whatever is embedded next

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

    @cached_property
    def loaded(self) -> LoadedEncoders:
        """The encoders, their blocks folded where they can be."""
        return fold_blocks(encoders.load(self.tower, self.weights, self.placement))

    def in_role(self, role: Role) -> TowerJob:
        """The job of the same tower for what asks, or for what is searched: a model is loaded once for both."""
        tower = self.tower
        if not isinstance(tower, SentenceTransformersTower) or not tower.has_roles:
            return self
        return _RoleJob(self, tower.in_role(role))

    def pictures(self, name: str, shards: Path, pool: pl.DataFrame, out: Path) -> None:
        """Embed pictures, or pictures with texts, into `out` as `<name>.npy` and `<name>.parquet`."""
        with self.parts_of_pictures(shards, pool) as scratch:
            self._collect(name, scratch, name_rows(pool).select("id", "image_id"), out)

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
        with Scratch("embed", key) as scratch:
            whole = is_complete(scratch, len(pool), choose_part_size(self.placement, texts=False))
            if not (whole and scratch.has(PROBE)) and self.loaded.native is not None:
                self._embed_native(self.loaded.native, shards, name_rows(pool), scratch)
            elif not whole:
                encoder = self.loaded.image
                if encoder is None:
                    name = getattr(self.tower, self.tower.family)
                    raise ParamsError(f"{name} reads no pictures: name it as `text:` on the card")
                scratch.note("tower", parameters=encoder.parameters)
                pixels = None
                if self.placement.pixels == "device":
                    pixels = DevicePixels(encoder.pixels, self.placement)
                embed_pictures(
                    encoder,
                    shards,
                    pool,
                    scratch,
                    self.placement,
                    batch=self.compute.image_batch,
                    decode_threads=self.compute.decode_threads,
                    room=self._room[0],
                    read=pixels,
                )
                if pixels is not None and pixels.refused:
                    log.info("%s pictures were decoded on the CPU, as the device takes no such JPEG", pixels.refused)
                    scratch.note("pixels", decoded_on_cpu=pixels.refused + scratch.total("decoded_on_cpu"))
            if not scratch.has(PROBE):
                assert self.loaded.image is not None
                scratch.put(PROBE, probe.probe_pictures(self.loaded.image, shards, pool, self.placement).write)
            yield scratch

    def _embed_native(self, encoder: NativeEncoder, shards: Path, rows: pl.DataFrame, scratch: Scratch) -> None:
        scratch.note("tower", parameters=encoder.parameters)
        embed_native(
            encoder,
            shards,
            rows,
            scratch,
            self.placement,
            batch=self.compute.image_batch,
            read_threads=self.compute.decode_threads,
            room=self._room[0],
        )
        if not scratch.has(PROBE):
            scratch.put(PROBE, probe.probe_native(encoder, shards, rows, self.placement).write)

    @contextmanager
    def parts_of_texts(self, texts: pl.DataFrame) -> Iterator[Scratch]:
        """Vectors of texts (`id`, `text`) in parts, and their probe, as the tower gives them."""
        key = fingerprint(texts=digest(texts["text"]), **self.identity)
        with Scratch("embed", key) as scratch:
            if not is_complete(scratch, len(texts), choose_part_size(self.placement, texts=True)):
                encoder = self.loaded.text
                assert encoder is not None
                scratch.note("tower", parameters=encoder.parameters)
                words, ids = texts["text"].to_list(), texts["id"].to_list()
                batch, room = self.compute.text_batch, self._room[1]
                embed_texts(encoder, words, ids, scratch, self.placement, batch=batch, room=room)
            if not scratch.has(PROBE):
                assert self.loaded.text is not None
                scratch.put(PROBE, probe.probe_texts(self.loaded.text, texts, self.placement).write)
            yield scratch

    def _collect(self, name: str, scratch: Scratch, ids: pl.DataFrame, out: Path, **figures: float) -> None:
        found = Probe.read(scratch.path(PROBE)).transform(normalise_rows)
        dim = collect(scratch, len(ids), out / f"{name}.npy")
        write_ids(name, ids, found, out)
        self.note_cost(name, scratch, len(ids), dim, **figures)
        if self.placement.device.type == "cuda":
            torch.cuda.empty_cache()

    def note_cost(self, name: str, scratch: Scratch, items: int, dim: int, **figures: float) -> None:
        """Record what the vectors of a source took, and in what share of that the device had nothing to do."""
        seconds, idle = scratch.total("seconds"), scratch.total("idle")
        if idle:  # a device was at work here
            figures["idle_share"] = idle / seconds
        if decoded_on_cpu := int(scratch.total("decoded_on_cpu")):
            figures["decoded_on_cpu"] = decoded_on_cpu
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
        super().__init__(tower, job.weights, job.placement, job.compute, job.cost)
        self._job, self._room, self._prompt = job, job._room, tower.prompt

    @cached_property
    def loaded(self) -> LoadedEncoders:
        """The encoders."""
        return put_prompt(self._job.loaded, self._prompt)


def name_rows(pool: pl.DataFrame) -> pl.DataFrame:
    """The rows of pictures with an `id`: the picture's, where they have none of their own."""
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


def write_ids(name: str, ids: pl.DataFrame, found: Probe, out: Path) -> None:
    """Write what stands beside the vectors of a source: their ids (`id`, `image_id`) and their probe."""
    named = ids["id"].gather(choose_rows(len(ids))).to_list()  # the scratch knows contents, not ids
    replace(found, ids=named).write(out / f"{name}.probe.npz")
    write_table(ids, out / f"{name}.parquet", VECTORS)
