"""Prices: `cards/prices.yaml`, what the user pays for machines and services."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from twinlens.config.numbers import PositiveOrZero
from twinlens.config.sheets import read_sheet

FILE = "prices.yaml"  # in the folder of cards


class Prices(BaseModel):
    """Prices in one currency, whichever it is; what has none is told without a price."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    machine_hour: PositiveOrZero | None = None  # of the machine that serves and indexes
    thousand_calls: dict[str, PositiveOrZero] = {}  # of a service, by the name of the model's card


def read_prices(cards: Path = Path("cards")) -> Prices:
    """Read and check `cards/prices.yaml`.

    Raises:
        ParamsError: it is not there, is not YAML, or holds a value that is not allowed.
    """
    return read_sheet(cards / FILE, Prices)
