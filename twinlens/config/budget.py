"""Settings of the vector budget: `cards/budget.yaml`, in a file of its own as only one stage reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from twinlens.config.explain import explain_problems
from twinlens.config.numbers import Count, InnerShare, Share
from twinlens.config.yaml_file import parse_yaml
from twinlens.core.errors import ParamsError

FILE = "budget.yaml"  # in the folder of cards
Precision = Literal["float32", "float16", "int8", "binary", "rotated_bits"]


class BudgetParams(BaseModel):
    """What is tried of a model's vectors in fewer bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    k: Count  # of the measures
    queries: Count  # timed one by one, of each setting
    precisions: list[Precision]  # of all dimensions; float32 is what they are compared with
    dimension_shares: list[InnerShare]  # of the dimensions that are kept, in float32 and in int8
    rescored: list[Count]  # the best so many by bits get new scores by int8
    tolerance: Share  # the recommended setting loses no more of hit@k, by its interval


def read_budget(cards: Path = Path("cards")) -> BudgetParams:
    """Read and check `cards/budget.yaml`.

    Raises:
        ParamsError: it is not there, is not YAML, or holds a value that is not allowed.
    """
    path = cards / FILE
    try:
        raw = parse_yaml(path.read_bytes(), path)
    except FileNotFoundError:
        raise ParamsError(f"{path} is not here: take it from the repository (`git checkout {path}`)") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path} should hold keys and values, found {type(raw).__name__}")
    try:
        return BudgetParams.model_validate(raw)
    except ValidationError as error:
        told = "\n".join(f"  - {message}" for _, message in explain_problems(error, raw, BudgetParams))
        raise ParamsError(f"{path} has {error.error_count()} problem(s); nothing was run:\n{told}") from None
