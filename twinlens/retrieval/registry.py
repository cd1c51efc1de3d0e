"""All retrievers and rerankers: those of every module of this package that has functions of these names.

A module that is put here takes part; there is no list to enter it in.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from twinlens import retrieval
from twinlens.config.params import Params
from twinlens.core.errors import DataError
from twinlens.retrieval.base import Corpus, Reranker, Retriever
from twinlens.tasks.base import Task


def list_retrievers(task: Task, corpus: Corpus, params: Params) -> list[Retriever]:
    """List every retriever that a task and a model's vectors allow.

    Raises:
        DataError: two have one name.
    """
    found = [one for make in _functions("retrievers") for one in make(task, corpus, params)]
    names = [(one.name, one.published) for one in found]
    if twice := sorted(name for name, _ in {name for name in names if names.count(name) > 1}):
        raise DataError(f"{task.name}: two retrievers are called '{twice[0]}': give one of them another name")
    return found


def list_rerankers(task: Task, corpus: Corpus, params: Params) -> list[Reranker]:
    """Every reranker that a task and a model's vectors allow.

    Raises:
        DataError: two have one name and one retriever, whose runs would have one name.
    """
    found: list[Reranker] = [one for make in _functions("rerankers") for one in make(task, corpus, params)]
    runs = [f"{one.retriever}_{one.name}" for one in found]
    if twice := sorted({run for run in runs if runs.count(run) > 1}):
        raise DataError(f"{task.name}: two rerankers make the run '{twice[0]}': give one of them another name")
    return found


def _functions(name: str) -> Iterator[Callable[[Task, Corpus, Params], list[Any]]]:
    for module in sorted(module.name for module in pkgutil.iter_modules(retrieval.__path__)):
        if (function := getattr(import_module(f"{retrieval.__name__}.{module}"), name, None)) is not None:
            yield function
