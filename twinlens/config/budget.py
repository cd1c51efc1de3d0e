"""Settings of the vector budget: `cards/budget.yaml`, in a file of its own as only one stage reads it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from twinlens.config.numbers import Count, InnerShare, Share
from twinlens.config.sheets import read_sheet
from twinlens.config.vector_forms import Precision

FILE = "budget.yaml"  # in the folder of cards


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
    return read_sheet(cards / FILE, BudgetParams)
