"""Conversion of bytes and table cells into texts: one for all adapters, so that a value means the same everywhere.

Bytes are decoded, a list is several texts, a whole float is a whole number, null and NaN are nothing. What is
left (structs, dates, truth values) has no one text that it stands for, and is an error instead of Python's idea of it.
"""

from __future__ import annotations

import ast
import codecs
import io
import json
import math
import re
import tokenize
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from twinlens.core.errors import DataError
from twinlens.datasets.readers.limits import MAX_NESTED

MARKS = (  # byte-order marks; UTF-32's begins with UTF-16's, so it is looked for first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
START = 8  # bytes that are looked at, of a heading's first letters; UTF-8 has no zero among them
MAX_WRITTEN = 2**20  # characters of a written list; parsing fewer takes no memory to speak of
_LINE_END = re.compile(r"\r\n|\n|\r")
# What programs write where there is nothing: pandas, numpy, Python, SQL and JSON, spreadsheets, MySQL.
NOTHING = frozenset(("nan", "NaN", "NAN", "<NA>", "NaT", "None", "null", "NULL", "#N/A", "\\N"))


def decode(raw: bytes) -> str:
    """Decode a text file: UTF-16 or UTF-32 where a byte-order mark says so or every other byte is zero, else UTF-8.

    Broken bytes become lone surrogates, which the filter drops by name.
    """
    for mark, encoding in MARKS:
        if raw.startswith(mark):
            try:
                return raw.decode(encoding)
            except UnicodeDecodeError:
                break
    zeros = raw[0:START:2].strip(b"\0"), raw[1:START:2].strip(b"\0")
    if len(raw) > 1 and not all(zeros) and any(zeros):  # of letters without accents, UTF-16 without a mark has one zero
        return raw.decode("utf-16-le" if not zeros[1] else "utf-16-be", "replace")
    return raw.decode("utf-8-sig", "surrogateescape")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is none, an object has a key twice, or it is nested deeper than Python goes.
    """
    try:
        return json.loads(text, object_pairs_hook=_make_object)
    except RecursionError:
        raise ValueError("brackets are nested too deep") from None


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # of which JSON keeps the last, without a word
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has the key {twice!r} twice; which is meant? Several texts of one key are a list")
    return found


def split_lines(text: str) -> list[str]:
    r"""Split at \n, \r\n and \r alone: U+2028, U+0085 and form feeds are characters of a caption, not its end."""
    return _LINE_END.split(text)


def split_texts(cell: Any, where: str, separator: str | None = None) -> list[str]:
    """Split a cell into texts: none, one, a list, or one that a separator divides.

    Args:
        cell: what a table, a JSON file or Parquet holds.
        where: file and column, for the message.
        separator: that stands between several texts of one cell.

    Raises:
        DataError: the cell holds something that is no text.
    """
    found = []
    for text in _texts(cell, where):
        parts = [part.strip() for part in text.split(separator)] if separator else [text]
        found += [part for part in parts if not is_nothing(part)]
    return found


def read_text_cell(cell: Any, where: str) -> str | None:
    """Read the one text of a cell that holds an id, a name of a file or a split; None where it holds nothing.

    Raises:
        DataError: it holds several, or something that is no text.
    """
    found = [text for text in _texts(cell, where, lists_as_text=False) if text.strip()]
    if len(found) > 1:
        raise DataError(f"{where}: found a list of {len(found)}, wanted one. Write a row for each")
    return found[0] if found and not is_nothing(found[0]) else None


def _texts(cell: Any, where: str, lists_as_text: bool = True, depth: int = 0) -> Iterator[str]:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return
    if isinstance(cell, str):
        written = _parse_written(cell) if lists_as_text else None
        if isinstance(written, list | tuple) and not any(_structs_in(written)):
            yield from _texts(written, where, False, depth)
        else:
            yield cell
    elif isinstance(cell, bytes):
        yield from _texts(decode(cell), where, lists_as_text)
    elif isinstance(cell, list | tuple):
        if depth == MAX_NESTED:
            raise DataError(f"{where}: lists within lists, {depth} deep; wanted a text or a list of texts")
        for item in cell:
            yield from _texts(item, where, lists_as_text, depth + 1)
    elif isinstance(cell, int | float | Decimal) and not isinstance(cell, bool):
        yield str(int(cell)) if math.isfinite(cell) and cell == int(cell) else str(cell)
    else:
        raise DataError(
            f"{where}: found {_described(cell)}, wanted a text, a number or a list of them. {_way_on(cell)}"
        )


def _parse_written(text: str) -> list[Any] | tuple[Any, ...] | dict[Any, Any] | None:
    """The list or struct that was written as text, by JSON, Python or numpy; None where the text is none.

    A data frame that was written as CSV has them so, and would else be one caption full of brackets.
    """
    bare = text.strip()
    if len(bare) < 2 or bare[0] + bare[-1] not in ("[]", "()", "{}"):
        return None
    for read in (json.loads, _parse_python):
        try:
            found = read(bare)
        except (ValueError, SyntaxError, RecursionError):
            continue
        except MemoryError:  # so Python's parser says that brackets or signs are nested too deep
            if len(bare) > MAX_WRITTEN:
                raise
            continue
        if isinstance(found, list | tuple | dict):
            return found
    return None


def _parse_python(text: str) -> Any:
    """Python's literal; of texts side by side, which numpy writes without commas, each is one."""
    found = ast.literal_eval(text)
    if isinstance(found, list) and all(isinstance(item, str) for item in found):
        signs = tokenize.generate_tokens(io.StringIO(text).readline)
        return [ast.literal_eval(sign.string) for sign in signs if sign.type == tokenize.STRING]
    return found


def _structs_in(cell: Any) -> Iterator[dict[Any, Any]]:
    if isinstance(cell, dict):
        yield cell
    for item in cell if isinstance(cell, list | tuple) else ():
        yield from _structs_in(item)


def explain_struct(text: str) -> str | None:
    """Explain that a text is a struct, or a list of them, which a program wrote; None where it is not."""
    found = next(_structs_in(_parse_written(text)), None)
    return None if not found else f"found {_described(found)} that was written as text. {_way_on(found)}"


def is_nothing(text: str) -> bool:
    """Whether a text is what a program writes where there is nothing."""
    return text.strip() in NOTHING


def _described(cell: Any) -> str:
    if isinstance(cell, dict):
        return f"a struct of {', '.join(map(str, cell)) or 'nothing'}"
    return f"{type(cell).__name__} {str(cell)[:60]!r}"


def _way_on(cell: Any) -> str:
    if isinstance(cell, dict):
        return "Write the field that is meant into a column of its own, and name that column on the card"
    return "Write the column as text, or name another column on the card"
