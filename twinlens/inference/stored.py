"""Vectors that were made elsewhere as a job: rows of files, by id or by text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from twinlens.config.models import VectorsTower
from twinlens.core.errors import DataError
from twinlens.inference.lookup import LookupJob, Take
from twinlens.models.encoders.vectors import find_pictures, find_texts, find_useless, read_side
from twinlens.models.vector_files import Side, StoredVectors, name_some


class StoredJob(LookupJob):
    """A tower whose vectors are in files."""

    tower: VectorsTower
    not_identity = frozenset({"vectors", "ids", "text_vectors", "text_ids", "unknown_ids"})  # the files' digests say it

    def look_up_pictures(self, shards: Path, pool: pl.DataFrame) -> Take:
        """See `LookupJob.look_up_pictures`."""
        ids = pool["image_id"].to_list()
        return self._take("image", find_pictures(self.side("image"), ids)[0], ids)

    def look_up_texts(self, texts: pl.DataFrame) -> Take:
        """See `LookupJob.look_up_texts`."""
        rows, _ = find_texts(self.side("text"), get_own_ids(texts), texts["text"].to_list())
        return self._take("text", rows, texts["id"].to_list())

    def _take(self, side: Side, rows: Int[np.ndarray, " rows"], ids: Sequence[str]) -> Take:
        stored = self.side(side)
        if lacking := [ids[int(place)] for place in np.flatnonzero(rows < 0)]:
            raise DataError(f"{stored.path} has no vector of {len(lacking):,} inputs: {name_some(lacking)}")
        if trouble := find_useless(stored, rows, self.tower.normalise):
            raise DataError(trouble)
        return lambda chosen: stored.take(rows[chosen])

    def side(self, side: Side) -> StoredVectors:
        """The vectors of pictures, or of texts; read when they are first asked for."""
        if side not in self._read:
            self._read[side] = read_side(self.tower, side)
        return self._read[side]

    @cached_property
    def _read(self) -> dict[Side, StoredVectors]:
        return {}


def get_own_ids(texts: pl.DataFrame) -> list[str | None]:
    """Get the ids of texts (`id`, `image_id`); None where it is a picture's or a class's, and not the text's own."""
    return [own if own != image_id else None for own, image_id in texts.select("id", "image_id").iter_rows()]
