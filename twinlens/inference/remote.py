"""Vectors of a service as a job: asked for once, several requests at a time, and kept as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from twinlens.config.models import EndpointTower
from twinlens.core.endpoint import Stopwatch, ask_concurrently
from twinlens.core.hashing import hash_text
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch, fingerprint
from twinlens.core.shards import iter_pixels
from twinlens.inference.lookup import LookupJob, Take
from twinlens.inference.vector_log import VectorLog
from twinlens.models.encoders.endpoint import Client, Embedded

HOW = frozenset({"key", "price", "requests"})  # of the card: how it is asked, which decides no vector
MILLION = 1e6


class EndpointJob(LookupJob):
    """A tower behind an address."""

    tower: EndpointTower
    exact = False  # a service may round in another way another time
    not_identity = HOW

    def look_up_pictures(self, shards: Path, pool: pl.DataFrame) -> Take:
        """See `LookupJob.look_up_pictures`."""
        keys = [f"picture-{digest}" for digest in pool["sha256"]]

        def tasks(missing: set[str]) -> Iterator[tuple[list[str], list[bytes]]]:
            wanted = (
                pool.with_columns(key=pl.Series(keys))
                .filter(pl.col("key").is_in(list(missing)))
                .unique("key", keep="first", maintain_order=True)
            )
            pictures = zip(wanted["key"], iter_pixels(shards, wanted), strict=True)
            batch: list[tuple[str, bytes]] = []
            for key, (_, jpeg) in pictures:
                batch.append((key, jpeg))
                if len(batch) == self.tower.requests.pictures:
                    yield _split(batch)
                    batch = []
            if batch:
                yield _split(batch)

        return self._ask("pictures", keys, tasks, lambda client, jpegs: client.embed_pictures(jpegs))

    def look_up_texts(self, texts: pl.DataFrame) -> Take:
        """See `LookupJob.look_up_texts`."""
        words = texts["text"].to_list()
        keys = [f"text-{hash_text(text)}" for text in words]
        text_of = dict(zip(keys, words, strict=True))

        def tasks(missing: set[str]) -> Iterator[tuple[list[str], list[str]]]:
            wanted, size = [key for key in text_of if key in missing], self.tower.requests.texts
            for start in range(0, len(wanted), size):
                batch = wanted[start : start + size]
                yield batch, [text_of[key] for key in batch]

        return self._ask("texts", keys, tasks, lambda client, batch: client.embed_texts(batch))

    @contextmanager
    def parts_of_pictures(self, shards: Path, pool: pl.DataFrame) -> Iterator[Scratch]:
        """See `TowerJob.parts_of_pictures`."""
        with super().parts_of_pictures(shards, pool) as scratch:
            self._note(scratch, [f"picture-{digest}" for digest in pool["sha256"]])
            yield scratch

    @contextmanager
    def parts_of_texts(self, texts: pl.DataFrame) -> Iterator[Scratch]:
        """See `TowerJob.parts_of_texts`."""
        with super().parts_of_texts(texts) as scratch:
            self._note(scratch, [f"text-{hash_text(text)}" for text in texts["text"]])
            yield scratch

    def note_cost(self, name: str, scratch: Scratch, items: int, dim: int, **figures: float) -> None:
        """Record what the vectors of a source took: tokens as well, and money where the card has a price."""
        figures |= {"tokens": int(scratch.total("tokens"))}
        if self.tower.price is not None:
            figures |= {"money": scratch.total("tokens") * self.tower.price / MILLION}
        super().note_cost(name, scratch, items, dim, **figures)

    def _log(self) -> Scratch:
        said = self.tower.model_dump(mode="json", exclude=set(HOW))
        return Scratch("answers", fingerprint(tower=said))

    def _note(self, scratch: Scratch, keys: Sequence[str]) -> None:
        if not scratch.has("requests.note"):
            with self._log() as kept:
                scratch.note("requests", **VectorLog(kept.folder).total(set(keys)))

    def _ask(
        self,
        what: str,
        keys: list[str],
        tasks: Callable[[set[str]], Iterator[tuple[list[str], Any]]],
        embed: Callable[[Client, Any], Embedded],
    ) -> Take:
        """Ask for what the log lacks; gives the vectors of some of the keys, by their places."""
        with self._log() as kept:
            log = VectorLog(kept.folder)
            missing = {key for key in keys if key not in log}
            if missing:
                client, watch = Client(self.tower), Stopwatch()

                def ask(task: tuple[list[str], Any]) -> int:
                    batch, content = task
                    found = embed(client, content)
                    log.add(batch, found.rows, seconds=watch.lap(), tokens=found.tokens)
                    return len(batch)

                done = len(set(keys)) - len(missing)
                with Progress(f"embed {what}", total=len(set(keys)), unit="input", done=done) as bar:
                    for _, count in ask_concurrently(tasks(missing), ask, self.tower.requests.concurrency):
                        bar.add(count)
            rows = log.take(keys)
        return lambda chosen: rows[chosen]


def _split(batch: list[tuple[str, bytes]]) -> tuple[list[str], list[bytes]]:
    return [key for key, _ in batch], [jpeg for _, jpeg in batch]
