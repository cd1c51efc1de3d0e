"""Strict parsing of request bodies: anything the page itself would not send is refused before it is processed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from twinlens.apps.web.answers import MAX_MARKS, SearchRequest, VisualQuery
from twinlens.apps.web.guard import MAX_ASKED_BYTES
from twinlens.indexing.results import Mode

MAX_TYPED = 100_000  # characters; a search reads the first few thousand
Count = Literal[12, 24, 48]
COUNTS: tuple[int, ...] = get_args(Count)
Name = Annotated[str, Field(max_length=1_000)]
Sentence = Annotated[str, Field(max_length=500)]


class BodyError(Exception):
    """A body that the page would not send."""


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Mark(_Said):
    """One marked picture."""

    id: Name
    relevant: bool


class MarksBody(_Said):
    """The pictures that a visitor has marked."""

    marks: Annotated[list[Mark], Field(max_length=MAX_MARKS)]

    @field_validator("marks")
    @classmethod
    def _once_each(cls, marks: list[Mark]) -> list[Mark]:
        if len({mark.id for mark in marks}) < len(marks):
            raise ValueError("a picture is marked twice")
        return marks

    @property
    def pairs(self) -> tuple[tuple[str, bool], ...]:
        """The marks as `VisualQuery` has them."""
        return tuple((mark.id, mark.relevant) for mark in self.marks)


class Tray(MarksBody):
    """The marks, to be shown."""

    pictured: bool  # whether there is a picture besides
    mode: Literal["auto"] | Mode


class SearchBody(MarksBody):
    """One search."""

    words: Annotated[str, Field(max_length=MAX_TYPED)]
    mode: Literal["auto"] | Mode
    weight: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    count: Count
    model: Name
    other: Name
    mended: Annotated[list[Sentence], Field(max_length=8)]
    again: bool  # by the marks, whatever the mode

    def to_request(self, picture: bytes | None) -> SearchRequest:
        """The search request that this body asks for."""
        asked = VisualQuery(picture, self.pairs, tuple(self.mended) if picture else ())
        return SearchRequest(self.words, asked, self.mode, self.weight, self.count)


S = TypeVar("S", bound=MarksBody)


def read_tray(body: bytes) -> Tray:
    """Read the marks.

    Raises:
        BodyError: the body says something else.
    """
    return _read(body, Tray)


def read_search(body: bytes) -> tuple[SearchBody, bytes | None]:
    """Read a search, in the body's first line, and the picture that may follow it.

    Raises:
        BodyError: the body says something else.
    """
    line, _, picture = body.partition(b"\n")
    return _read(line, SearchBody), picture or None


def _read(line: bytes, model: type[S]) -> S:
    if len(line) > MAX_ASKED_BYTES:
        raise BodyError("it is too long")
    try:
        content = json.loads(line.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
        return model.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if fault["type"] == "extra_forbidden":  # a name that is not ours is not repeated
            raise BodyError("it names something that the page does not know") from None
        raise BodyError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    except RecursionError:
        raise BodyError("it is nested too deep") from None
    except ValueError:  # no UTF-8, no JSON, numbers of thousands of digits
        raise BodyError("it is no JSON") from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BodyError("a key stands there twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise BodyError(f"{name} is no number")
