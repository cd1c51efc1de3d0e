"""What all cards and their parts have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Card(BaseModel):
    """Unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
