"""Terminal output: a table for people, tab-separated lines for programs, and nothing that steers a terminal."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import typer

BIDI = dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])  # reorder what follows
STEERING = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, separators of lines


def strip_control(text: str) -> str:
    """Bring a text of the data's into one line, without what a terminal would obey."""
    kept = "".join(" " if unicodedata.category(sign) in STEERING else sign for sign in text.translate(BIDI))
    return " ".join(kept.split())


def note(text: str) -> None:
    """Say something that is no part of the answer: to standard error."""
    typer.echo(strip_control(text), err=True)


@contextmanager
def show_work(what: str) -> Iterator[None]:
    """Show on a terminal that something goes on, until it is done; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{strip_control(what)} ..."):
        yield


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write rows below a heading to standard output: framed on a terminal; elsewhere values with tabs between them."""
    cleaned = [[strip_control(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (columns, *cleaned):
            typer.echo("\t".join(row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in cleaned:
        table.add_row(*(Text(value) for value in row))  # not markup: brackets are the data's own
    Console().print(table)
