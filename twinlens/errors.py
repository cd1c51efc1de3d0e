"""The errors a user can mend: they end a stage with one readable message and no traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TwinLensError(Exception):
    """Something in the parameters, the data or the surroundings is wrong; the message says what to do."""


class ParamsError(TwinLensError):
    """params.yaml or a card holds something it should not."""


class DataError(TwinLensError):
    """A table, picture or vector is not what it should be."""


class FetchError(TwinLensError):
    """A file could not be had from where it was asked for."""


class QueryError(TwinLensError):
    """A search asks for something that cannot be searched for; the message says what can."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A phrase that points from a wrong name to the right one, for use at the end of a message."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'? Known: {', '.join(names)}"
    return f"known: {', '.join(names)}"
