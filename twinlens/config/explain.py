"""Readable validation errors: pydantic's findings by the keys that a person wrote, with what is allowed there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from twinlens.core.errors import suggest_nearest

MOST = 80  # characters of what was found


def explain_problems(
    error: ValidationError, raw: dict[str, Any], root: Any, also: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], str]]:
    """List the problems: the keys at which each stands, and what to tell.

    Args:
        error: what was found.
        raw: what was checked.
        root: the type that it was checked against.
        also: keys that are allowed anywhere, beside those of the type.
    """
    for problem in error.errors():
        where = _key_path(problem["loc"], raw)
        key = ".".join(str(part) for part in where)
        if problem["type"] == "extra_forbidden":
            allowed = [*_allowed_keys(problem["loc"][:-1], root), *also]
            message = f"{key}: no such key ({suggest_nearest(str(where[-1]), allowed)})"
        elif problem["type"] == "missing":
            message = f"{key}: missing"
        else:
            told = problem["msg"].removeprefix("Value error, ")
            found = "" if problem["type"] == "value_error" else f", found {_short(problem['input'])}"
            message = f"{key}: {told}{found}" if key else f"{told}"
        yield tuple(where), message


def _short(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= MOST else f"{told[:MOST]}..."


def _key_path(loc: tuple[Any, ...], raw: dict[str, Any]) -> list[Any]:
    """A pydantic location as a path in the file: without the tags that name a union's member."""
    path: list[Any] = []
    node: Any = raw
    for i, step in enumerate(loc):
        last = i == len(loc) - 1
        inside = isinstance(node, dict) and step in node
        if (inside and (last or isinstance(node[step], (dict, list)))) or (
            isinstance(node, list) and isinstance(step, int) and step < len(node)
        ):
            path.append(step)
            node = node[step]
        elif last and isinstance(step, str):  # a missing key
            path.append(step)
    return path


def _allowed_keys(loc: tuple[Any, ...], root: Any) -> list[str]:
    """The keys that the file may hold at a pydantic location."""
    sections = _models_in(root)
    for step in loc:
        tagged = [section for section in sections if step in _tags(section)]
        if tagged:
            sections = tagged
            continue
        following: list[type[BaseModel]] = []
        for section in sections:
            field = section.model_fields.get(str(step))
            following += _models_in(field.annotation) if field else []
        sections = following or sections  # a step that is no field names an entry: the candidates stay the same
    return sorted({key for section in sections for key in section.model_fields})


def _tags(section: type[BaseModel]) -> tuple[Any, ...]:
    """Names of a union's members in a pydantic location: adapter or family."""
    adapter = section.model_fields.get("adapter")
    return get_args(adapter.annotation) if adapter else (getattr(section, "family", None),)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
