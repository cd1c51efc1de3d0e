"""Embedding job of a model of token vectors: its matrices, and beside them the mean of each at unit length."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from twinlens.config.sentence_models import MultiVectorTower, Role
from twinlens.core.code import code_digest
from twinlens.core.errors import ParamsError
from twinlens.core.probes import Probe
from twinlens.core.scratch import Scratch, digest, fingerprint
from twinlens.core.token_matrices import write_token_matrices
from twinlens.core.vectors import normalise_rows
from twinlens.inference import probe
from twinlens.inference.token_loop import (
    PICTURES_PER_PART,
    TEXTS_PER_PART,
    embed_picture_tokens,
    embed_text_tokens,
    list_missing,
    list_parts,
)
from twinlens.inference.tower import PROBE, TowerJob, count_cut_texts, name_rows, write_ids
from twinlens.models.encoders.base import LoadedEncoders


class MultiVectorJob(TowerJob):
    """A tower of token vectors. What asks and what is searched are read otherwise, by one model."""

    tower: MultiVectorTower
    role: Role | None = None  # None: texts ask, and pictures are searched

    def in_role(self, role: Role) -> MultiVectorJob:
        """See `TowerJob.in_role`."""
        return _InRole(self, role)

    @cached_property
    def identity(self) -> dict[str, object]:
        """See `TowerJob.identity`."""
        code = code_digest(__name__, f"twinlens.models.encoders.{self.tower.family}")
        return {**super().identity, "role": self.role, "code": code}

    def pictures(self, name: str, shards: Path, pool: pl.DataFrame, out: Path) -> None:
        """Embed pictures, or pictures with texts; see `write_token_matrices` for the files of a source."""
        rows = name_rows(pool)
        words = {"texts": digest(pool["text"])} if "text" in pool.columns else {}
        shown = {"pictures": digest(pool["sha256"]), "ids": digest(pool["image_id"])}
        with Scratch("embed", fingerprint(tokens=True, **shown, **words, **self.identity)) as scratch:
            if list_missing(len(rows), PICTURES_PER_PART, scratch) or not scratch.has(PROBE):
                encoder: Any = self.loaded.native
                if encoder is None:
                    raise ParamsError(f"{self.tower.multi_vector} reads no pictures: name it as `text:` on the card")
                scratch.note("tower", parameters=encoder.parameters)
                embed_picture_tokens(
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
            self._write(name, scratch, rows.select("id", "image_id"), out)

    def texts(self, name: str, texts: pl.DataFrame, out: Path) -> None:
        """Embed texts (`id`, `image_id`, `text`); see `write_token_matrices` for the files of a source."""
        key = fingerprint(tokens=True, texts=digest(texts["text"]), **self.identity)
        with Scratch("embed", key) as scratch:
            if list_missing(len(texts), TEXTS_PER_PART, scratch) or not scratch.has(PROBE):
                encoder: Any = self.loaded.text
                scratch.note("tower", parameters=encoder.parameters)
                words, ids = texts["text"].to_list(), texts["id"].to_list()
                batch, room = self.compute.text_batch, self._room[1]
                embed_text_tokens(encoder, words, ids, scratch, self.placement, batch=batch, room=room)
                if not scratch.has(PROBE):
                    scratch.put(PROBE, probe.probe_texts(encoder, texts, self.placement).write)
            self._write(name, scratch, texts, out, **count_cut_texts(name, scratch, len(texts)))

    def _write(self, name: str, scratch: Scratch, ids: pl.DataFrame, out: Path, **figures: float) -> None:
        found = Probe.read(scratch.path(PROBE)).transform(normalise_rows)
        lengths = write_token_matrices(list_parts(scratch), len(ids), out, name)
        write_ids(name, ids, found, out)
        dim = int(np.load(out / f"{name}.npy", mmap_mode="r").shape[1])
        tokens = float(lengths.mean())
        self.cost.add(
            name,
            seconds=scratch.total("seconds"),
            items=len(ids),
            parameters=int(scratch.total("parameters")),
            dim=dim,
            vector_bytes=round(4 * dim + 2 * dim * tokens),  # of the mean, and of the token vectors
            token_vectors=tokens,
            **figures,
        )
        if self.placement.device.type == "cuda":
            torch.cuda.empty_cache()


class _InRole(MultiVectorJob):
    """The same tower for what asks, or for what is searched; another job has its model."""

    def __init__(self, job: MultiVectorJob, role: Role) -> None:
        super().__init__(job.tower, job.weights, job.placement, job.compute, job.cost)
        self._job, self._room, self.role = job, job._room, role

    @cached_property
    def loaded(self) -> LoadedEncoders:
        """The encoders."""
        from twinlens.models.encoders.multi_vector import put_role

        assert self.role is not None
        return put_role(self._job.loaded, self.role)
