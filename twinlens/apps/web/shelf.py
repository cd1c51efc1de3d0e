"""The indexes on this disk, opened when they are first asked for and kept open."""

from __future__ import annotations

from dataclasses import dataclass

from twinlens.config.params import Params
from twinlens.core.errors import QueryError
from twinlens.indexing.open import list_indexes
from twinlens.indexing.searcher import Searcher
from twinlens.indexing.session import Found, SearcherCache
from twinlens.indexing.validate import check_name


@dataclass(frozen=True, order=True)
class IndexName:
    """Name of one index of the dataset."""

    model: str
    captioner: str

    @property
    def key(self) -> str:
        """The name as one string; `Shelf.find` reads it."""
        return f"{self.model}/{self.captioner}"


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
        self.dataset = check_name(dataset or params.dataset, params.datasets, "dataset")
        self._kept = SearcherCache()

    def names(self) -> list[IndexName]:
        """The indexes on disk that can answer and whose model and captioner still have cards, sorted."""
        return [IndexName(model, captioner) for _, model, captioner in list_indexes(self.params, self.dataset)]

    def find(self, key: str) -> IndexName:
        """The index with this key.

        Raises:
            QueryError: there is none; the message has those that there are.
        """
        names = {name.key: name for name in self.names()}
        return names[check_name(key, names, "index")]

    def label(self, name: IndexName) -> str:
        """Label of an index: its model, and its captioner where that is not the active one."""
        return name.model if name.captioner == self.params.captioner else f"{name.model}, captions by {name.captioner}"

    def open(self, name: IndexName) -> Found:
        """Open the index; returns it and notes for the asker, see `SearcherCache.searcher`.

        Raises:
            QueryError: it is not open, and there is none or it may not answer.
            DataError: it has to be built here first and cannot be.
        """
        return self._kept.searcher(self.params, self.dataset, name.model, name.captioner)

    def searcher(self, name: IndexName) -> Searcher:
        """Open the index, without the notes."""
        return self.open(name)[0]

    def first(self, model: str | None = None) -> IndexName:
        """Choose the index to begin with: of a model, with the active captions where there are such.

        Args:
            model: the active one if absent.

        Raises:
            QueryError: the model has no card, or no index; the message says what builds one.
        """
        wanted = check_name(model or self.params.model, self.params.models, "model")
        names = [name for name in self.names() if name.model == wanted]
        if not names:
            self.searcher(IndexName(wanted, self.params.captioner))  # says what is missing
            raise QueryError(f"there is no index of {self.dataset} with {wanted}")
        return next((name for name in names if name.captioner == self.params.captioner), names[0])
