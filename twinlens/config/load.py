"""Reading `params.yaml`; what is wrong with it is said by key, with what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from twinlens.config.params import Params
from twinlens.errors import ParamsError, nearest


def read_params(path: str | Path = "params.yaml") -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: the file is missing, is not YAML, or holds a value that is not allowed; the
            message names each key, what was found, what is wanted and the nearest valid name.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path} is not here: run from the root of the repository") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path} should hold keys and values, found {type(raw).__name__}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError(_explain(error, raw, path)) from None


def _explain(error: ValidationError, raw: dict[str, Any], path: str | Path) -> str:
    lines = [f"{path} has {error.error_count()} problem(s); nothing was run:"]
    for problem in error.errors():
        where = _key_path(problem["loc"], raw)
        key = ".".join(str(part) for part in where)
        if problem["type"] == "extra_forbidden":
            allowed = _allowed_keys(where[:-1])
            hint = nearest(str(where[-1]), allowed) if allowed else "remove it"
            lines.append(f"  - {key}: no such key ({hint})")
        elif problem["type"] == "missing":
            lines.append(f"  - {key}: missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            found = "" if problem["type"] == "value_error" else f", found {problem['input']!r}"
            lines.append(f"  - {key}: {message}{found}" if key else f"  - {message}")
    return "\n".join(lines)


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


def _allowed_keys(where: list[Any]) -> list[str]:
    """The keys that the file may hold at `where`."""
    sections: list[type[BaseModel]] = [Params]
    for step in where:
        following: list[type[BaseModel]] = []
        for section in sections:
            field = section.model_fields.get(str(step))
            following += _models_in(field.annotation) if field else []
        # a step that is no field is the name of a card: the candidates stay the same
        sections = following or sections
    keys = {key for section in sections for key in section.model_fields}
    return sorted(keys)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
