"""The indexes that lie on this disk, opened when they are asked for and kept open."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock

from twinlens import paths
from twinlens.errors import QueryError, TwinLensError
from twinlens.indexing.manifest import published
from twinlens.indexing.queries import known
from twinlens.indexing.searcher import KEPT_OPEN, Searcher
from twinlens.params import Params

log = logging.getLogger("twinlens")

TRIED_AGAIN_S = 5.0  # how long the old index answers before a new one that failed is tried again
Stamp = tuple[int, int]


@dataclass(frozen=True, order=True)
class Name:
    """One index of the dataset."""

    model: str
    captioner: str

    @property
    def key(self) -> str:
        """As one string; `Shelf.find` reads it."""
        return f"{self.model}/{self.captioner}"


@dataclass(frozen=True)
class _Failed:
    stamp: Stamp | None  # of the manifest that could not be opened
    reason: str
    at: float  # seconds of the monotonic clock


@dataclass(frozen=True)
class _Opened:
    searcher: Searcher
    stamp: Stamp | None  # of its manifest
    failed: _Failed | None = None  # the last try to open a newer one

    def answers(self, stamp: Stamp | None) -> bool:
        """Whether nothing newer can be had: it is up to date, or DVC makes the manifest anew, or one was just tried."""
        if stamp in (None, self.stamp):
            return True
        failed = self.failed
        # The manifest may be right and what it names not there yet: a stamp that failed is tried again.
        return failed is not None and failed.stamp == stamp and time.monotonic() - failed.at < TRIED_AGAIN_S


class Shelf:
    """The indexes of one dataset; safe to be used by several threads."""

    def __init__(self, params: Params, dataset: str | None = None) -> None:
        """Open nothing yet.

        Args:
            params: params.yaml.
            dataset: the active one if absent.

        Raises:
            QueryError: there is no such dataset.
        """
        self.params = params
        self.dataset = known(dataset or params.dataset, params.datasets, "dataset")
        self._opened: OrderedDict[Name, _Opened] = OrderedDict()
        self._lock, self._opening = Lock(), Lock()

    def names(self) -> list[Name]:
        """The indexes on disk whose model and captioner still have cards, sorted."""
        folders = [paths.DATA / "indexed" / self.dataset, published(self.dataset, "", "").parent]
        found = {Name(file.parent.name, file.stem) for folder in folders for file in folder.glob("*/*.json")}
        return sorted(
            name for name in found if name.model in self.params.models and name.captioner in self.params.captioners
        )

    def find(self, key: str) -> Name:
        """The index with this key.

        Raises:
            QueryError: there is none; the message has those that there are.
        """
        names = {name.key: name for name in self.names()}
        return names[known(key, names, "index")]

    def label(self, name: Name) -> str:
        """What to call an index: its model, and its captioner where that is not the active one."""
        return name.model if name.captioner == self.params.captioner else f"{name.model}, captions by {name.captioner}"

    def searcher(self, name: Name) -> Searcher:
        """The index, open. One that was built anew is opened anew; until it can be, the old one answers.

        Raises:
            QueryError: it is not open, and there is none or it may not answer.
            DataError: it has to be built here first and cannot be.
        """
        held = self._held(name)
        if held and (held.answers(self._stamp(name)) or self._opening.locked()):
            return held.searcher
        with self._opening:  # one at a time; what is open answers meanwhile
            held, stamp = self._held(name), self._stamp(name)
            if held is None or not held.answers(stamp):
                held = self._open(name, held, stamp)
            with self._lock:
                self._opened[name] = held
                while len(self._opened) > KEPT_OPEN:
                    self._opened.popitem(last=False)
            return held.searcher

    def _held(self, name: Name) -> _Opened | None:
        with self._lock:
            if name in self._opened:
                self._opened.move_to_end(name)
            return self._opened.get(name)

    def _open(self, name: Name, held: _Opened | None, stamp: Stamp | None) -> _Opened:
        try:
            return _Opened(Searcher(self.dataset, name.model, name.captioner, self.params), stamp)
        except (TwinLensError, OSError) as error:  # files that DVC is replacing are not there for a moment
            if held is not None:
                return self._kept(name, held, _Failed(stamp, str(error), time.monotonic()))
            if isinstance(error, TwinLensError):
                raise
            raise QueryError(f"the index of {name.key} cannot be opened: {error}; try again in a moment") from error

    def _kept(self, name: Name, held: _Opened, failed: _Failed) -> _Opened:
        before = held.failed
        if before is None or (before.stamp, before.reason) != (failed.stamp, failed.reason):  # once, not at every try
            log.warning(
                "the index of %s changed and cannot be opened; the old one answers: %s", name.key, failed.reason
            )
        return replace(held, failed=failed)

    def _stamp(self, name: Name) -> Stamp | None:
        """What changes when the manifest does; nothing while there is none."""
        try:
            stat = paths.indexed(self.dataset, name.model, name.captioner).stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino

    def first(self, model: str | None = None) -> Name:
        """The index to begin with: of a model, with the active captions where there are such.

        Args:
            model: the active one if absent.

        Raises:
            QueryError: the model has no card, or no index; the message says what builds one.
        """
        wanted = known(model or self.params.model, self.params.models, "model")
        names = [name for name in self.names() if name.model == wanted]
        if not names:
            self.searcher(Name(wanted, self.params.captioner))  # says what is missing
            raise QueryError(f"there is no index of {self.dataset} with {wanted}")
        return next((name for name in names if name.captioner == self.params.captioner), names[0])
