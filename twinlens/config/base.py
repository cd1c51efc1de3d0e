"""Base classes of all cards and their parts."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

ABOUT, BASE = "about", "base"  # keys that a card and each of its parts may have, beside its own


class CardRemarks(BaseModel):
    """Remarks for people, on which no result depends: changing them reruns nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    licence: str | None = None
    note: str | None = None
    source: str | None = None  # where the values come from


class Card(BaseModel):
    """Base of cards: unknown keys are errors, values never change after reading.

    A dump never has `about`, so that no key of kept work can depend on it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    about: CardRemarks = Field(default=CardRemarks(), exclude=True)


def describe_card(card: Card) -> dict[str, Any]:
    """Show all values of a card for people: with `about`, without empty ones."""
    shown = card.model_dump(mode="json", exclude_none=True)
    for name in type(card).model_fields:
        value = getattr(card, name)
        if isinstance(value, Card):
            shown[name] = describe_card(value)
    if remarks := card.about.model_dump(exclude_none=True):
        shown[ABOUT] = remarks
    return shown
