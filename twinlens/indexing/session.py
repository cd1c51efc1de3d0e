"""Searchers that stay open from one query to the next, and `search`, which asks them."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from twinlens.config.load import read_params, read_stamp
from twinlens.config.params import Params
from twinlens.core import paths
from twinlens.core.errors import QueryError, TwinLensError
from twinlens.indexing.results import Results
from twinlens.indexing.searcher import Searcher
from twinlens.indexing.validate import check_name

log = logging.getLogger("twinlens")

Stamp = tuple[int, int]
Key = tuple[Path, str, str, str]  # the folder that we are in, dataset, model, captioner
Found = tuple[Searcher, tuple[str, ...]]  # with notes

KEPT_OPEN = 4  # searchers, each with its model
TRIED_AGAIN_S = 5.0  # how long the old index answers before a new one that failed is tried again
AWAY = "the index is being built anew, or was removed: the one that was opened before answers"


def read_file_stamp(path: Path) -> Stamp | None:
    """Read the state of a file that changes when the file does; None while there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino


@dataclass(frozen=True)
class _Failed:
    stamp: Stamp | None  # of the manifest that could not be opened
    params: Params
    reason: str
    at: float  # seconds of the monotonic clock


@dataclass(frozen=True)
class _Open:
    searcher: Searcher
    stamp: Stamp | None  # of the manifest that there was
    failed: _Failed | None = None  # the last try to open a newer one

    def answer(self, params: Params, stamp: Stamp | None) -> Found | None:
        """The searcher, unless something newer may be had: nothing has changed, is not there yet, or was just tried."""
        if self.searcher.params == params and stamp in (None, self.stamp):
            return self.searcher, () if stamp == self.stamp else (AWAY,)
        failed = self.failed
        # The manifest may be right and what it names not there yet, so what failed is tried again.
        if failed and (failed.stamp, failed.params) == (stamp, params) and time.monotonic() - failed.at < TRIED_AGAIN_S:
            return self.instead()
        return None

    def instead(self) -> Found:
        """The searcher, while what is newer cannot be opened."""
        reason = f", as it was then: {self.failed.reason}" if self.failed else " while it is opened anew"
        return self.searcher, (f"the index that was opened before answers{reason}",)


class SearcherCache:
    """The searchers that were asked last, open; safe to be used by several threads."""

    def __init__(self) -> None:
        self._open: OrderedDict[Key, _Open] = OrderedDict()
        self._lock, self._opening = Lock(), Lock()

    def searcher(self, params: Params, dataset: str, model: str, captioner: str) -> Found:
        """Open the searcher of an index, or reuse it; returns it and notes for the asker.

        It is opened anew when the index or the parameters change. Until it can be, the one that is open answers.

        Raises:
            QueryError: there is no such name; or it is not open, and there is no such index or it may not answer.
            DataError: it is not open, has to be built here first and cannot be.
        """
        names = (
            check_name(dataset, params.datasets, "dataset"),
            check_name(model, params.models, "model"),
            check_name(captioner, params.captioners, "captioner"),
        )
        key = (Path.cwd(), *names)
        held = self._held(key)
        if held is not None:
            if found := held.answer(params, read_file_stamp(paths.indexed(*names))):
                return found
            if self._opening.locked() and held.searcher.params == params:
                return held.instead()  # nobody waits for what another opens
        with self._opening:
            held, stamp = (
                self._held(key),
                read_file_stamp(paths.indexed(*names)),
            )  # another may have opened it meanwhile
            found = held.answer(params, stamp) if held is not None else None
            return found or self._opened(key, params, held, stamp)

    def _held(self, key: Key) -> _Open | None:
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
            return self._open.get(key)

    def _opened(self, key: Key, params: Params, held: _Open | None, stamp: Stamp | None) -> Found:
        try:
            searcher = Searcher(*key[1:], params)
        except (TwinLensError, OSError) as error:  # OSError: a stage removed what was being read
            if held is not None:
                return self._kept(key, held, _Failed(stamp, params, str(error), time.monotonic()))
            if isinstance(error, TwinLensError):
                raise
            raise QueryError(f"the index of {'/'.join(key[1:])} cannot be opened: {error}; try again soon") from error
        if held is not None and held.searcher.towers.stands_for(searcher.towers):
            searcher.towers = held.searcher.towers  # in memory, where the weights on disk may be about to change
        with self._lock:
            self._open[key] = _Open(searcher, stamp)
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)
        return searcher, ()

    def _kept(self, key: Key, held: _Open, failed: _Failed) -> Found:
        before = held.failed
        if before is None or (before.stamp, before.reason) != (failed.stamp, failed.reason):  # once, not at every try
            names = "/".join(key[1:])
            log.warning("the index of %s changed and cannot be opened; the old one answers: %s", names, failed.reason)
        held = replace(held, failed=failed)
        with self._lock:
            self._open[key] = held
        return held.instead()


_KEPT = SearcherCache()


def search(
    text: str | None = None,
    *,
    dataset: str | None = None,
    model: str | None = None,
    captioner: str | None = None,
    **query: Any,
) -> Results:
    """Find pictures of the index; see `Searcher.search` for the query.

    The index and its model stay open for the next call, until the index, params.yaml or a card change. While an index
    is built anew the one that was opened before answers, which a note says.

    Args:
        text: what is looked for, in words.
        dataset: the active name of params.yaml if absent, as the others.
        model: see `dataset`.
        captioner: see `dataset`.
        query: the arguments of `Searcher.search`: `image`, `like`, `unlike`, `mode`, `k` and so on.

    Raises:
        QueryError: there is nothing to search for, or no index that could answer.
    """
    params = _params(Path.cwd(), read_stamp())
    names = (dataset or params.dataset, model or params.model, captioner or params.captioner)
    searcher, notes = _KEPT.searcher(params, *names)
    found = searcher.search(text, **query)
    return replace(found, notes=(*notes, *found.notes))


@lru_cache(maxsize=1)
def _params(folder: Path, stamp: object) -> Params:
    return read_params()
