"""Columns of a table of pictures: which name files of the folder, which hold captions, labels and splits.

The heading decides where it says so; the column of files is known by its values, which name pictures that are there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from twinlens.core.errors import DataError
from twinlens.datasets.annotations import find_split, read_split
from twinlens.datasets.readers.archives import Tree
from twinlens.datasets.readers.names import is_picture, normalise
from twinlens.datasets.readers.parquet_cells import open_parquet
from twinlens.datasets.readers.tabular import TableRow, read_rows

SAMPLE = 1000  # rows that are looked at, spread over the table
MOST = 0.5  # share of a column's values that have to fit
CAPTION = re.compile(
    r"(.*[_ -])?(captions?|descriptions?|sentences?|texts?|comments?|prompts?|alt|titles?|raw)([_ -]?\d+)?",
    re.IGNORECASE,
)
LABEL = re.compile(
    r"(.*[_ -])?(labels?|class(es)?|categor(y|ies)|tags?|keywords?|objects?)([_ -]names?)?", re.IGNORECASE
)
SPLIT = re.compile(r"(.*[_ -])?(split|subset|partition|fold|set)", re.IGNORECASE)
SEPARATORS = (";", "|", ",")  # of several labels in one cell
WORDS = 3  # of a caption, in the mean: fewer are a name or a label


@dataclass(frozen=True)
class Columns:
    """Columns of one table, and the part of the folder that its names of files begin at."""

    file: str
    captions: list[str]
    label: str | None
    split: str | None
    separator: str | None
    root: str  # "" or a folder in the folder: names are below it
    named: int  # pictures that the sampled rows name
    notes: list[str] = field(default_factory=list)  # what was seen and is not used


class Pictures:
    """The pictures of a folder or archive, found by what a cell says."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.names = [name for name in tree.names() if is_picture(name)]
        self._by_last: dict[str, list[str]] = {}
        self._stems: dict[str, str] = {}
        for name in self.names:
            self._by_last.setdefault(PurePosixPath(name).name, []).append(name)
            self._stems.setdefault(PurePosixPath(name).stem, name)

    def find_root(self, values: Sequence[str], table: str) -> tuple[str, int, list[str]]:
        """Find the folder below which most values name pictures, how many do, and which others are as likely.

        Of folders with as many, the one that the table lies in is meant, then the one of the split in its name.
        """
        direct = sum((found := self.tree.find(value)) is not None and is_picture(found) for value in values)
        below: Counter[str] = Counter()
        for value in values:
            name = normalise(value)
            if PurePosixPath(name).name not in self._by_last:
                name = unquote(name)
            for candidate in self._by_last.get(PurePosixPath(name).name, []):
                if candidate.endswith(f"/{name}"):
                    below[candidate[: -len(name) - 1]] += 1
        own, split = str(PurePosixPath(table).parent), find_split(table)
        rank = {
            root: (count, root == own, split is not None and find_split(root) == split) for root, count in below.items()
        }
        best = max(rank.values(), default=(0, False, False))
        if direct > best[0] or (direct == best[0] and not best[1]):
            return "", direct, []
        root, *rivals = [root for root, found in rank.items() if found == best] or [""]
        return root, best[0], rivals

    def explain(self, values: Sequence[str]) -> str | None:
        """Explain why values that look like names of pictures name none; None where they do not look so."""
        if not values:
            return None
        stems = [value for value in values if value in self._stems]
        if len(stems) >= MOST * len(values):
            near = self._stems[stems[0]]
            return f"names pictures without their endings ({stems[0]!r} for {near}): write the whole name"
        addresses = [value for value in values if re.match(r"https?://", value)]
        if len(addresses) >= MOST * len(values):
            return f"holds addresses ({addresses[0][:60]}): fetch the pictures, and name their files"
        files = [value for value in values if is_picture(value)]
        if len(files) >= MOST * len(values):
            last = [value for value in files if PurePosixPath(normalise(value)).name in self._by_last]
            if last:
                near = self._by_last[PurePosixPath(normalise(last[0])).name][0]
                return f"names pictures by other paths ({last[0]!r} for {near}): write the path below one folder"
            folded = {PurePosixPath(name).name.casefold(): name for name in self.names}
            other = folded.get(PurePosixPath(normalise(files[0])).name.casefold())
            there = (
                f"there is {other!r}, in letters of another case" if other else f"what is there is {self.names[0]!r}"
            )
            return f"names pictures that are not there, {files[0]!r} for instance; {there}"
        return None


def read_whole_table(path: Path) -> list[TableRow]:
    """Read every column of a table that may hold a text.

    Raises:
        FetchError: it is not there.
        DataError: it is no table.
    """
    names: list[str] = []
    if path.suffix.lower() == ".parquet":
        schema = open_parquet(path).schema_arrow
        names = [name for name in schema.names if "binary" not in str(schema.field(name).type)]
    return read_rows(path, names)


def find_columns(path: Path, pictures: Pictures, name_below: str) -> Columns:
    """Find the columns of a table.

    Args:
        path: of the table.
        pictures: that it may list.
        name_below: of the table, below the folder of the pictures: of those that share a name, it lists those nearest.

    Raises:
        FetchError: it is not there.
        DataError: it is no table, has no row, or no column names pictures that are there; the message says what the
            columns hold instead.
    """
    rows = read_whole_table(path)
    if not rows:
        raise DataError(f"{path}: no row below its heading")
    step = max(1, len(rows) // SAMPLE)
    sampled = rows[::step]
    names = list(dict.fromkeys(name for row in sampled for name in row.cells if name))
    if heading := [name for name in names if is_picture(name) and pictures.tree.find(name) is not None]:
        raise DataError(
            f"{path}: its first line is a row ({heading[0]!r} is a picture), not a heading: put one above it, such as "
            "file,caption"
        )
    values = {name: _texts(sampled, name) for name in names}
    rooted = {name: pictures.find_root(found, name_below) for name, found in values.items()}
    fitting = [name for name in names if values[name] and rooted[name][1] >= MOST * len(values[name])]
    if not fitting:
        raise DataError(_explain_no_file(path, names, values, pictures))
    file = max(fitting, key=lambda name: (rooted[name][1], name.casefold() in ("file", "file_name", "filename")))
    if rivals := rooted[file][2]:
        raise DataError(
            f"{path}: column {file} names pictures that are in {rooted[file][0]}/ and in {rivals[0]}/ "
            f"({values[file][0]!r} for instance): which are meant? Write the path below one folder"
        )
    rest = [name for name in names if name != file and values[name]]
    notes = [
        f"{path.name}: column {name} is not used: {why}" for name in names if (why := _explain_cells(sampled, name))
    ]
    split = _find_split(rest, values, notes)
    labels = [name for name in rest if name != split and LABEL.fullmatch(name)]
    captions = _find_captions([name for name in rest if name not in (split, *labels)], values)
    if len(labels) > 1:
        notes.append(f"{path.name}: {labels[0]} is taken as label; {', '.join(labels[1:])} could be it too")
    others = [name for name in rest if name not in (split, *labels, *captions)]
    if others:
        notes.append(f"{path.name}: columns {', '.join(others[:12])}{', ...' if len(others) > 12 else ''} are not used")
    label = labels[0] if labels else None
    separator = None if label is None else _find_separator(sampled, label)
    return Columns(file, captions, label, split, separator, rooted[file][0], len(set(values[file])), notes)


def _explain_no_file(path: Path, names: list[str], values: dict[str, list[str]], pictures: Pictures) -> str:
    why = [f"column {name} {said}" for name in names if (said := pictures.explain(values[name]))]
    told = "; ".join(why) or f"it has {', '.join(f'{n} ({values[n][0][:24]!r})' for n in names[:6] if values[n])}"
    return f"{path}: no column names pictures of the folder: {told}"


def _explain_cells(rows: Iterable[TableRow], name: str) -> str | None:
    """Explain why a column cannot be read; None where it can."""
    try:
        for row in rows:
            row.texts(name)
    except DataError as error:
        return str(error).partition(": ")[2]
    return None


def _texts(rows: Iterable[TableRow], name: str) -> list[str]:
    """All texts of a column; none where its cells hold no texts."""
    found: list[str] = []
    try:
        for row in rows:
            found += [text for text in row.texts(name) if text.strip()]
    except DataError:
        return []
    return found


def _find_split(names: list[str], values: dict[str, list[str]], notes: list[str]) -> str | None:
    for name in names:
        held = dict.fromkeys(values[name])
        if all(map(read_split, held)) and (len(held) > 1 or SPLIT.fullmatch(name)):
            return name
    for name in (name for name in names if SPLIT.fullmatch(name)):
        held = dict.fromkeys(values[name])
        if len(held) <= 6 and any(map(read_split, held)):
            strange = [value for value in held if not read_split(value)]
            notes.append(
                f"{name} looks like the split but holds {', '.join(map(repr, strange))}: write train, val or test, and "
                "run this again; until then all pictures are `test`"
            )
    return None


def find_alike(first: str, names: Iterable[str]) -> list[str]:
    """Find the columns that are called as one is but for a number at the end."""
    return [name for name in names if re.sub(r"[_ -]?\d+$", "", name) == re.sub(r"[_ -]?\d+$", "", first)]


def _find_captions(names: list[str], values: dict[str, list[str]]) -> list[str]:
    """The columns called so, most likely first, those that are numbered together; else the one that reads so."""
    called = [name for name in names if CAPTION.fullmatch(name) and not _are_numbers(values[name])]
    if called:
        first = max(called, key=lambda name: _mean_words(values[name]))
        return find_alike(first, called)
    reads = [name for name in names if _mean_words(values[name]) >= WORDS]
    return [max(reads, key=lambda name: _mean_words(values[name]))] if reads else []


def _are_numbers(texts: list[str]) -> bool:
    return all(re.fullmatch(r"[\d.,+-]+", text.strip()) for text in texts)


def _mean_words(texts: list[str]) -> float:
    return sum(len(text.split()) for text in texts) / len(texts) if texts else 0.0


def _find_separator(rows: Sequence[TableRow], name: str) -> str | None:
    """The sign that stands between several labels of one cell: one whose parts are labels of other cells too."""
    cells = [texts[0] for row in rows if len(texts := row.texts(name)) == 1]
    for separator in SEPARATORS:
        divided = [cell for cell in cells if separator in cell]
        parts = Counter(part.strip() for cell in cells for part in cell.split(separator))
        if divided and sum(parts[part.strip()] > 1 for part in divided[0].split(separator)):
            return separator
    return None
