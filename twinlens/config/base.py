"""Base classes of all cards and their parts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt

# A dataset as the world knows it, whatever part of it a card reads: coco, flickr30k, laion-2b.
Origin = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]

ABOUT, BASE = "about", "base"  # keys that a card and each of its parts may have, beside its own


GOLDEN_NUMBERS = 7  # the first of a vector: as many as fit on a line that DVC does not fold


def _read_numbers(text: Any) -> Any:
    if isinstance(text, float | int):  # a single one is a number to YAML
        return (text,)
    return tuple(text.split()) if isinstance(text, str) else text


Numbers = Annotated[tuple[float, ...], BeforeValidator(_read_numbers), Field(min_length=1, max_length=GOLDEN_NUMBERS)]


class GoldenVectors(BaseModel):
    """How the vectors of drawn pictures and texts begin, as numbers with blanks between: of this very checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pictures: Numbers | None = None
    texts: Numbers | None = None


class PublishedFigures(BaseModel):
    """Values that a source printed for a model on one task, with the conditions that they were measured under."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: str
    dataset: str  # the card of the dataset as the source used it
    split: str
    pictures: PositiveInt  # of the pool
    captions: PositiveInt  # of a picture that count
    task: Literal["caption_to_image", "image_to_caption"]
    counts: Literal["any", "each"]  # any: one right caption of a picture's is enough; each: every caption is a query
    prompt: str = ""  # before every caption
    input_px: PositiveInt
    precision: Literal["float32", "bfloat16", "float16"] | None = None  # null: the source does not say
    values: dict[Annotated[str, Field(pattern=r"^[a-z_]+_at_[0-9]+$")], Annotated[float, Field(gt=0, lt=1)]]


class CardRemarks(BaseModel):
    """Remarks for people, and what a tower is checked by. No result depends on them: changing them reruns nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    licence: str | None = None
    note: str | None = None
    source: str | None = None  # where the values come from
    parameters: PositiveInt | None = None  # of all towers, as trained: before anything is folded for inference
    dims: PositiveInt | None = None  # of a vector
    input_px: PositiveInt | None = None  # the side of the square that is read
    context_tokens: PositiveInt | None = None  # of a text; more are cut off
    languages: tuple[str, ...] = ()  # by ISO 639, or `multilingual`
    published: tuple[PublishedFigures, ...] = ()  # what papers and libraries report of it
    golden: GoldenVectors | None = None  # of a tower; `twinlens models --golden <name>` writes them


class Card(BaseModel):
    """Base of cards: unknown keys are errors, values never change after reading.

    A dump never has `about`, so that no key of kept work can depend on it; nor has it what else is marked `exclude`.
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
        elif name != ABOUT and type(card).model_fields[name].exclude and value:
            shown[name] = value
    if remarks := card.about.model_dump(mode="json", exclude_none=True, exclude_defaults=True):
        shown[ABOUT] = remarks
    return shown


class Weights(Card):
    """Source of weights; a local `checkpoint` is taken instead of the hub when given."""

    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")  # commit of the hub repository
    checkpoint: str | None = None  # file or folder; ~ and $VARIABLES are expanded
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")  # of the checkpoint file, checked
    trained_on: list[Origin] = Field(default=[], exclude=True)  # datasets, as far as is known; decides no result
