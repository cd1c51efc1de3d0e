"""Embedding job of a model of token vectors: its matrices, and beside them the mean of each at unit length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import polars as pl
import torch

from twinlens.config.sentence_models import MultiVectorTower, Role
from twinlens.core.code import code_digest
from twinlens.core.errors import ParamsError
from twinlens.core.probes import Probe
from twinlens.core.scratch import Scratch
from twinlens.core.token_matrices import write_token_matrices
from twinlens.core.vectors import normalise_rows
from twinlens.engines.base import Seat
from twinlens.inference.parts import Finished, Part, TextPart
from twinlens.inference.token_loop import stream_picture_tokens, stream_text_tokens
from twinlens.inference.tower import PROBE, TowerJob, find_changed_tops, write_ids
from twinlens.inference.tower_worker import TowerWorker, chain_parts
from twinlens.models.encoders.base import LoadedEncoders


class TokenWorker(TowerWorker):
    """A worker that makes token matrices. Where other towers have a prompt of their own, this has a role."""

    def prompted(self, prompt: str | None) -> LoadedEncoders:
        """The encoders in a role (`query` or `item`); None: texts ask, and pictures are searched."""
        from twinlens.models.encoders.multi_vector import put_role

        if prompt is None:
            return self.loaded
        if prompt not in self._prompted:
            self._prompted[prompt] = put_role(self.loaded, cast(Role, prompt))
        return self._prompted[prompt]

    def __call__(self, parts: Iterable[Part], seat: Seat) -> Iterator[Finished]:
        """See `TowerWorker`."""
        rest = iter(parts)
        if (first := next(rest, None)) is None:
            return
        loaded, room, mine = self.prompted(first.source.prompt), self._room, chain_parts(first, rest)
        some: Any = mine
        if isinstance(first, TextPart):
            encoder: Any = loaded.text
            found = stream_text_tokens(encoder, some, self.placement, seat, batch=self.text_batch, room=room[1])
        else:
            encoder = loaded.native
            if encoder is None:
                name = getattr(self.tower, self.tower.family)
                raise ParamsError(f"{name} reads no pictures: name it as `text:` on the card")
            found = stream_picture_tokens(encoder, some, self.placement, seat, batch=self.image_batch, room=room[0])
        for finished in found:
            yield replace(finished, parameters=encoder.parameters)


class MultiVectorJob(TowerJob):
    """A tower of token vectors. What asks and what is searched are read otherwise, by one model."""

    worker_kind = TokenWorker

    @cached_property
    def identity(self) -> dict[str, object]:
        """See `TowerJob.identity`."""
        code = code_digest(__name__, f"twinlens.models.encoders.{self.tower.family}")
        return {**super().identity, "role": self.prompt, "code": code}

    def in_role(self, role: Role) -> TowerJob:
        """See `TowerJob.in_role`."""
        assert isinstance(self.tower, MultiVectorTower)
        job = MultiVectorJob(self.tower, self.weights, self.placement, self.compute, self.cost, self.engine)
        job.worker, job.prompt = self.worker, role
        return job

    def _collect(self, name: str, scratch: Scratch, ids: pl.DataFrame, out: Path, **figures: float) -> None:
        found = Probe.read(scratch.path(PROBE)).transform(normalise_rows)
        parts, tokens = scratch.iter_paths(scratch.list_parts("part-*.npy")), int(scratch.total("tokens"))
        dim = write_token_matrices(parts, len(ids), tokens, out, name)
        write_ids(name, ids, found, out)
        each = tokens / len(ids)
        self.note_cost(
            name, scratch, len(ids), dim, token_vectors=each, **figures, **find_changed_tops(name, found, out)
        )
        self.cost.parts[name]["vector_bytes"] = round(4 * dim + 2 * dim * each)  # of the mean, and of the token vectors
        if self.placement.device.type == "cuda":
            torch.cuda.empty_cache()
