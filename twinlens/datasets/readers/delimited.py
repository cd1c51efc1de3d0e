"""CSV and TSV as rows of named cells, cut where the format cuts them: nothing is swallowed, nothing is left over."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from twinlens.core.bucket_files import AnyFile
from twinlens.core.errors import DataError
from twinlens.datasets.spelling import strip_blanks

SEPARATORS = ("\t", ",", ";", "|")
Row = tuple[int, dict[str, str]]  # number of its first line, and the cells it has by the names of the heading


def read_delimited(path: Path, text: str, wanted: Iterable[str]) -> list[Row]:
    """Read every row of a table with a heading.

    The separator is the one at which the heading splits into the wanted columns. A row may be short (it lacks its last
    cells), never long.

    Raises:
        DataError: a column is not there or is there twice, a quote never closes, or a row has more cells than the
            heading.
    """
    wanted = list(wanted)
    first, body = _skip_front(text)
    separator = _choose_separator(body, wanted)
    cut = _cut_at_tabs(path, body, first) if separator == "\t" else _cut_csv(path, body, first, separator)
    _, heading = next(cut, (first, []))
    names = [strip_blanks(name) for name in heading]
    refuse_missing(path, wanted, names)
    if twice := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
        raise DataError(
            f"{path}: its heading names the column {twice[0]!r} twice; which is meant? Rename one of the two"
        )
    rows, long = [], []
    for number, cells in cut:
        if not any(cells):
            continue
        if any(cell.strip() for cell in cells[len(names) :]):
            long.append((number, len(cells)))
        rows.append((number, {name: cell for name, cell in zip(names, cells, strict=False) if name}))
    if long:
        number, count = long[0]
        lines = ", ".join(str(number) for number, _ in long[:5]) + (", ..." if len(long) > 5 else "")
        raise DataError(
            f"{path}, line {number}: {count} cells, its heading has {len(names)} "
            f"({len(long)} such row(s): lines {lines}). "
            f'A cell that holds the separator {separator!r} has to be quoted ("..."); or save the table as JSONL'
        )
    return rows


def refuse_missing(path: AnyFile, wanted: Iterable[str], found: Iterable[str]) -> None:
    """Refuse a table that lacks a wanted column.

    Raises:
        DataError: it does; names are quoted where blanks or invisible characters would hide in them.
    """
    found = list(found)
    if missing := [name for name in wanted if name not in found]:
        by_case = {name.casefold(): name for name in found}
        near = by_case.get(missing[0].casefold())
        hint = f". Is {near!r} meant? Names are compared letter by letter: write it so on the card" if near else ""
        raise DataError(
            f"{path}: no column {', '.join(map(_shown, missing))}; "
            f"found {', '.join(map(_shown, found)) or 'nothing'}{hint}"
        )


def _shown(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else repr(name)


def _skip_front(text: str) -> tuple[int, str]:
    """The number of the heading's line and the text from there: without blank lines and Excel's `sep=,` in front."""
    front = re.match(r"(?:[ \t]*(?:\r\n|\n|\r))*(?:sep=.(?:\r\n|\n|\r))?", text)
    assert front is not None
    return 1 + len(re.findall(r"\r\n|\n|\r", front[0])), text[front.end() :]


def _choose_separator(text: str, wanted: list[str]) -> str:
    heading = re.split(r"[\r\n]", text, maxsplit=1)[0]
    for separator in SEPARATORS:
        if separator in heading:
            names = next(csv.reader([heading], delimiter=separator, skipinitialspace=True))
            if set(map(strip_blanks, names)).issuperset(wanted):
                return separator
    return "\t" if "\t" in heading else ","


def _cut_csv(path: Path, text: str, first: int, separator: str) -> Iterator[tuple[int, list[str]]]:
    r"""Cells by CSV's rules, where quotes are escaped as R and MySQL do (`\"`) by theirs.

    A row of several lines has to be quoted to the letter: a stray quote swallows lines.
    """
    lines = list(io.StringIO(text, newline=""))
    escape = _find_escape(lines, separator)
    reader = csv.reader(lines, delimiter=separator, escapechar=escape)
    while True:
        start = reader.line_num
        try:
            cells = next(reader)
            several = lines[start : reader.line_num]
            if len(several) > 1 or (several and several[0].count('"') % 2):
                next(csv.reader(several, delimiter=separator, escapechar=escape, strict=True))
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}, line {first + start}: {_explain(error)}") from None
        yield first + start, cells


def _find_escape(lines: list[str], separator: str) -> str | None:
    r"""Find the backslash that escapes quotes: where it does, a line that holds `\"` can be cut in no other way."""
    odd = (line for line in lines if '\\"' in line)
    return "\\" if any(not _is_row(line, separator) and _is_row(line, separator, "\\") for line in odd) else None


def _is_row(line: str, separator: str, escape: str | None = None) -> bool:
    try:
        next(csv.reader([line], delimiter=separator, escapechar=escape, strict=True))
    except csv.Error:
        return False
    return True


def _explain(error: csv.Error) -> str:
    said = str(error)
    if "end of data" in said or "expected after" in said:
        return (
            'a quote opens a cell and never closes, or closes in its middle. Quote the whole cell ("...") and write '
            'a quote within it twice (""), or save the table as JSONL'
        )
    if "field limit" in said:
        return (
            f"a cell of over {csv.field_size_limit():,} characters: does a quote open it that never closes? "
            "If it is meant, save the table as JSONL or Parquet"
        )
    return f"no row of a CSV table ({said}). Save the table anew, or as JSONL"


def _cut_at_tabs(path: Path, text: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """Cells between tabs. A quote is a character like others, unless it opens a cell that closes with one.

    A quoted cell may hold line breaks, as spreadsheets write them, but no tab: every row has tabs, so a stray quote
    can never swallow the next one.
    """
    lines = re.split(r"\r\n|\n|\r", text)
    at = 0
    while at < len(lines):
        start, row = at, lines[at]
        opened = _opened(row)
        if opened is not None:
            at, row = _joined(lines, at, opened)
        cells = row.split("\t")
        _refuse_odd(path, first + start, cells)
        at += 1
        yield first + start, [_unquoted(cell) for cell in cells]


def _opened(row: str) -> str | None:
    """The last cell of a line, if it opens with a quote and does not close."""
    last = row.rpartition("\t")[2]
    return last if last.startswith('"') and _unquoted(last) == last else None


def _refuse_odd(path: Path, number: int, cells: list[str]) -> None:
    if (longest := max(map(len, cells))) > csv.field_size_limit():
        raise DataError(
            f"{path}, line {number}: a cell of {longest:,} characters, wanted at most {csv.field_size_limit():,}. "
            "If it is meant, save the table as JSONL or Parquet"
        )
    odd = (cell for cell in cells if cell.startswith('"') and cell.count('"') % 2 and _unquoted(cell) == cell)
    if (cell := next(odd, None)) is not None:
        raise DataError(
            f"{path}, line {number}: a quote opens the cell {cell[:40]!r} and never closes. Close it, or save the "
            "table as JSONL"
        )


def _joined(lines: list[str], at: int, opened: str) -> tuple[int, str]:
    """The line that a quoted cell of several lines ends on and the whole row; the line itself where it is none."""
    row, cell = lines[at], opened
    if cell.count('"') % 2 == 0:  # `"Stop" said the sign` is a cell as it stands
        return at, row
    for end in range(at + 1, len(lines)):
        piece, tab, _ = lines[end].partition("\t")
        cell += "\n" + piece
        row += "\n" + lines[end]
        if _unquoted(cell) != cell:
            return end, row
        if tab:
            break
    return at, lines[at]


def _unquoted(cell: str) -> str:
    """A cell without its quotes, if it is quoted from end to end and doubles those within."""
    inner = cell[1:-1]
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return cell
