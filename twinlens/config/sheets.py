"""Sheets: settings in a file of their own in the folder of cards, as only one stage has a use for them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from twinlens.config.explain import explain_problems
from twinlens.config.yaml_file import parse_yaml
from twinlens.core.errors import ParamsError

Sheet = TypeVar("Sheet", bound=BaseModel)


def read_sheet(path: Path, kind: type[Sheet]) -> Sheet:
    """Read and check a sheet.

    Raises:
        ParamsError: it is not there, is not YAML, or holds a value that is not allowed.
    """
    try:
        raw = parse_yaml(path.read_bytes(), path)
    except FileNotFoundError:
        raise ParamsError(f"{path} is not here: take it from the repository (`git checkout {path}`)") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path} should hold keys and values, found {type(raw).__name__}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        told = "\n".join(f"  - {message}" for _, message in explain_problems(error, raw, kind))
        raise ParamsError(f"{path} has {error.error_count()} problem(s); nothing was run:\n{told}") from None
