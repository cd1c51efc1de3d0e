"""Searchers that stay open from one query to the next, and `search`, which asks them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from twinlens import paths
from twinlens.errors import TwinLensError
from twinlens.indexing.queries import known
from twinlens.indexing.results import Results
from twinlens.indexing.searcher import KEPT_OPEN, Searcher
from twinlens.params import Params, read_params

Stamp = tuple[int, int]
Key = tuple[Path, str, str, str]  # the folder that we are in, dataset, model, captioner
Found = tuple[Searcher, tuple[str, ...]]  # with notes

AWAY = "the index is being built anew, or was removed: the one that was opened before answers"


def stamp_of(path: Path) -> Stamp | None:
    """What changes when a file does; nothing while there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino


@dataclass(frozen=True)
class _Open:
    searcher: Searcher
    stamp: Stamp | None  # of the manifest that there was


class Kept:
    """The searchers that were asked last, open; safe to be used by several threads."""

    def __init__(self) -> None:
        self._open: OrderedDict[Key, _Open] = OrderedDict()
        self._lock, self._opening = Lock(), Lock()

    def searcher(self, params: Params, dataset: str, model: str, captioner: str) -> Found:
        """The searcher of an index, and what the asker should know of it.

        It is opened anew when the index or the parameters change. Until it can be, the one that is open answers.

        Raises:
            QueryError: there is no such name; or it is not open, and there is no such index or it may not answer.
            DataError: it is not open, has to be built here first and cannot be.
        """
        names = (
            known(dataset, params.datasets, "dataset"),
            known(model, params.models, "model"),
            known(captioner, params.captioners, "captioner"),
        )
        key = (Path.cwd(), *names)
        found = self._current(key, params)
        if found is None:
            with self._opening:  # one at a time; what is open and has not changed answers meanwhile
                found = self._current(key, params) or self._opened(key, params)
        return found

    def _current(self, key: Key, params: Params) -> Found | None:
        """The one that is open, if nothing that it was opened by has changed."""
        with self._lock:
            if key not in self._open:
                return None
            self._open.move_to_end(key)
            held = self._open[key]
        stamp = stamp_of(paths.indexed(*key[1:]))
        if held.searcher.params != params or stamp not in (None, held.stamp):
            return None
        return held.searcher, () if stamp == held.stamp else (AWAY,)

    def _opened(self, key: Key, params: Params) -> Found:
        with self._lock:
            held = self._open.get(key)
        stamp = stamp_of(paths.indexed(*key[1:]))
        try:
            searcher = Searcher(*key[1:], params)
        except (TwinLensError, OSError) as error:  # OSError: a stage removed what was being read
            if held is None:
                raise
            # it is tried again by the next call, as most of what fails here mends itself when the stages have run
            return held.searcher, (f"the index that was opened before answers, as it was then: {error}",)
        if held is not None and held.searcher.towers.stands_for(searcher.towers):
            searcher.towers = held.searcher.towers  # in memory, where the weights on disk may be about to change
        with self._lock:
            self._open[key] = _Open(searcher, stamp)
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)
        return searcher, ()


_KEPT = Kept()


def search(
    text: str | None = None,
    *,
    dataset: str | None = None,
    model: str | None = None,
    captioner: str | None = None,
    **query: Any,
) -> Results:
    """Find pictures of the index; see `Searcher.search` for the query.

    The index and its model stay open for the next call, until the index or params.yaml change. While an index is
    built anew the one that was opened before answers, which a note says.

    Args:
        text: what is looked for, in words.
        dataset: the active name of params.yaml if absent, as the others.
        model: see `dataset`.
        captioner: see `dataset`.
        query: the arguments of `Searcher.search`: `image`, `like`, `unlike`, `mode`, `k` and so on.

    Raises:
        QueryError: there is nothing to search for, or no index that could answer.
    """
    params = _params(Path.cwd(), stamp_of(Path("params.yaml")))
    names = (dataset or params.dataset, model or params.model, captioner or params.captioner)
    searcher, notes = _KEPT.searcher(params, *names)
    found = searcher.search(text, **query)
    return replace(found, notes=(*notes, *found.notes))


@lru_cache(maxsize=1)
def _params(folder: Path, stamp: Stamp | None) -> Params:
    return read_params()
