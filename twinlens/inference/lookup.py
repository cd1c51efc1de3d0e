"""Jobs whose vectors are not computed here: they are looked up and kept in parts as a tower's own are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import polars as pl

from twinlens.core.code import code_digest
from twinlens.core.probes import Probe, choose_rows
from twinlens.core.scratch import Scratch, digest, fingerprint
from twinlens.core.vectors import Matrix
from twinlens.inference.loop import PICTURES_PER_PART, TEXTS_PER_PART, is_complete
from twinlens.inference.parts import store_rows
from twinlens.inference.tower import PROBE, TowerJob
from twinlens.models import encoders

Take = Callable[[slice], Matrix]


class LookupJob(TowerJob):
    """A tower whose vectors come from elsewhere: no model is loaded, and no device decides them."""

    exact = True  # whether a vector looked up again is the same to the last digits
    not_identity: frozenset[str] = frozenset()  # keys of the card that decide no vector

    @abstractmethod
    def look_up_pictures(self, shards: Path, pool: pl.DataFrame) -> Take:
        """Look up pictures (`image_id`, `shard`, `row`, `sha256`): gives the vectors of some of them, as they are."""

    @abstractmethod
    def look_up_texts(self, texts: pl.DataFrame) -> Take:
        """Look up texts (`id`, `image_id`, `text`): gives the vectors of some of them, as they are."""

    @cached_property
    def identity(self) -> dict[str, object]:
        """Identity of a vector: everything that decides it, besides its input."""
        return {
            "tower": self.tower.model_dump(mode="json", exclude=set(self.not_identity)),
            "weights": encoders.identify(self.tower, self.weights),
            "code": code_digest(__name__, type(self).__module__, f"twinlens.models.encoders.{self.tower.family}"),
        }

    @contextmanager
    def parts_of_pictures(self, shards: Path, pool: pl.DataFrame) -> Iterator[Scratch]:
        """See `TowerJob.parts_of_pictures`."""
        key = fingerprint(pictures=digest(pool["sha256"]), ids=digest(pool["image_id"]), **self.identity)
        with Scratch("embed", key, self.compute.parts) as scratch:
            if not is_complete(scratch, len(pool), PICTURES_PER_PART):
                take = self.look_up_pictures(shards, pool)
                store_rows(take, pool["image_id"].to_list(), scratch, PICTURES_PER_PART)
            if not scratch.has(PROBE):
                some = pool[choose_rows(len(pool))]
                alone = self.look_up_pictures(shards, some)(slice(None))
                contents = pool["sha256"].n_unique()
                scratch.put(PROBE, self._probe(some["image_id"].to_list(), alone, contents).write)
            yield scratch

    @contextmanager
    def parts_of_texts(self, texts: pl.DataFrame) -> Iterator[Scratch]:
        """See `TowerJob.parts_of_texts`."""
        key = fingerprint(texts=digest(texts["text"]), ids=digest(texts["id"]), **self.identity)
        with Scratch("embed", key, self.compute.parts) as scratch:
            if not is_complete(scratch, len(texts), TEXTS_PER_PART):
                take = self.look_up_texts(texts)
                store_rows(take, texts["id"].to_list(), scratch, TEXTS_PER_PART)
            if not scratch.has(PROBE):
                some = texts[choose_rows(len(texts))]
                alone = self.look_up_texts(some)(slice(None))
                scratch.put(PROBE, self._probe(some["id"].to_list(), alone, texts["text"].n_unique()).write)
            yield scratch

    def _probe(self, ids: list[str], alone: Matrix, contents: int) -> Probe:
        """A probe that shows rows moved against their ids; how a model reads a text cannot be seen from here."""
        return Probe(ids, alone, alone[:0], float("nan"), contents, self.exact)
