"""All tasks: every module of this package that has a function `build` makes some.

A module that is put here takes part; there is no list to enter it in. Tasks are told in the order of their `place`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module

import polars as pl

from twinlens import tasks
from twinlens.config.params import Params
from twinlens.core.errors import DataError
from twinlens.core.id_rows import IdRows
from twinlens.core.scratch import digest
from twinlens.tasks.base import Task
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import Input

Builder = Callable[[Collection, Params], tuple[list[Task], list[Input]]]


def find_builders() -> Iterator[Builder]:
    """Find the functions that make tasks, by the names of their modules."""
    for module in sorted(module.name for module in pkgutil.iter_modules(tasks.__path__)):
        build = getattr(import_module(f"{tasks.__name__}.{module}"), "build", None)
        if build is not None:
            yield build


def build_tasks(collection: Collection, params: Params) -> tuple[list[Task], list[Input]]:
    """Build the tasks that a collection allows, and the inputs that they need, each once.

    Raises:
        DataError: there is no task, or two tasks want different inputs of one name.
    """
    found: dict[str, Task] = {}
    inputs: dict[str, Input] = {}
    for build in find_builders():
        made, needed = build(collection, params)
        for one in needed:
            held = inputs.setdefault(one.name, one)
            if not held.rows.equals(one.rows):
                raise DataError(
                    f"two tasks want different rows of the input '{one.name}': give one of them another name"
                )
            inputs[one.name] = replace(  # whatever one of them wants, there is
                held,
                shared=held.shared and one.shared,
                embedded=held.embedded or one.embedded,
                again=tuple(dict.fromkeys([*held.again, *one.again])),
            )
        found |= {task.name: task for task in made}
    if not found:
        raise DataError(
            "there is nothing to search for: no two pictures of the pool share their labels, none has a caption, and "
            "there are no classes. Choose another `pool` on the dataset's card, or give captions or labels"
        )
    told = [_digest_texts(task, inputs) for task in found.values()]
    return sorted(told, key=lambda task: (task.about.place, task.name)), list(inputs.values())


def _digest_texts(task: Task, inputs: Mapping[str, Input]) -> Task:
    """Have the task know what its queries and items say, where they are texts themselves, such as captions.

    A class's prompt, or what a captioner says of a picture, is how one chose to feed it, and may differ in what is
    compared.
    """
    said: list[pl.Series] = []
    for ids, name in ((task.query_ids, task.about.query_text), (task.item_ids, task.about.item_text)):
        if name is not None and name in inputs:
            rows = inputs[name].rows
            places = IdRows.of([rows["id"]]).find(ids)
            said.append(rows["text"].gather(places[places >= 0]))
    if not any(map(len, said)):
        return task
    return replace(task, about=replace(task.about, texts_digest=digest(text for one in said for text in one)))
