"""JSON files as rows of named cells: a list of objects, captions by file name, or annotations as COCO writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from twinlens.core.errors import DataError
from twinlens.datasets.readers.delimited import refuse_missing
from twinlens.datasets.readers.texts import parse_json

Row = tuple[str, dict[str, Any]]  # where it stands, and its cells by name
FILE, CAPTION, LABEL = "file_name", "caption", "label"  # cells of a row of COCO's
SHAPES = (
    'a list of objects, one a picture ([{"file": "a.jpg", "caption": "..."}]), captions by file name '
    '({"a.jpg": ["..."]}), or annotations as COCO writes them ({"images": [...], "annotations": [...]}) or Karpathy '
    '({"images": [{"filename": "a.jpg", "sentences": [...]}]})'
)


def read_json_table(path: Path, text: str, wanted: Iterable[str]) -> list[Row]:
    """Read every row of a JSON file.

    * A list of objects: a row each.
    * An object of texts or lists of texts: a row each, with the cells `file` and `caption`.
    * Karpathy's splits (`dataset_flickr30k.json`): a row a picture, its path as `file`, its sentences as `caption`.
    * COCO's annotations: a row a picture, with its own cells (`file_name`, `id` and so on), all its captions as
      `caption` and the names of its categories as `label`. Annotations of a picture that is not listed are rows
      without a file.

    Raises:
        DataError: it is no JSON or has another shape, or the first wanted column is in none of its rows.
    """
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}. A file with an object a line has to end in .jsonl") from None
    if _is_karpathys(content):
        rows = list(_rows_of_karpathy(path, content))
    elif isinstance(content, dict) and isinstance(content.get("images"), list):
        rows = list(_rows_of_coco(path, content))
    elif isinstance(content, dict) and content and all(map(_is_captions, content.values())):
        rows = [(f"key {name!r}", {"file": name, "caption": said}) for name, said in content.items()]
    elif isinstance(content, list) and all(isinstance(row, dict) for row in content):
        rows = [(f"entry {number}", row) for number, row in enumerate(content)]
    else:
        raise DataError(f"{path}: found {_shape(content)}; wanted {SHAPES}")
    refuse_missing(path, list(wanted)[:1], dict.fromkeys(name for _, row in rows for name in row))
    return rows


def _is_captions(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value))


def _shape(content: Any) -> str:
    if isinstance(content, dict):
        return f"an object of {', '.join(map(repr, list(content)[:8])) or 'nothing'}"
    return f"a list of {type(content[0]).__name__}" if isinstance(content, list) and content else repr(content)[:60]


def _is_karpathys(content: Any) -> bool:
    images = content.get("images") if isinstance(content, dict) else None
    return isinstance(images, list) and bool(images) and all(isinstance(i, dict) and "sentences" in i for i in images)


def _rows_of_karpathy(path: Path, content: dict[str, Any]) -> Iterator[Row]:
    for number, entry in enumerate(_entries(path, content, "images", ("filename", "sentences"))):
        said = [one.get("raw") if isinstance(one, dict) else one for one in entry["sentences"] or []]
        file = "/".join(filter(None, (entry.get("filepath"), entry["filename"])))
        yield f"image {number}", entry | {"file": file, CAPTION: said}


def _rows_of_coco(path: Path, content: dict[str, Any]) -> Iterator[Row]:
    categories = {
        _key(entry["id"]): str(entry["name"]) for entry in _entries(path, content, "categories", ("id", "name"))
    }
    captions: dict[Any, list[Any]] = {}
    labels: dict[Any, dict[str, None]] = {}
    for number, entry in enumerate(_entries(path, content, "annotations", ("image_id",))):
        owner = _key(entry["image_id"])
        if (said := entry.get("caption")) is not None:
            captions.setdefault(owner, []).append(said)
        if (category := entry.get("category_id")) is not None:
            if _key(category) not in categories:
                raise DataError(f"{path}, annotation {number}: category {category!r} is not in `categories`")
            labels.setdefault(owner, {})[categories[_key(category)]] = None
    listed: dict[str, Any] = {}
    for number, entry in enumerate(_entries(path, content, "images", ("id", FILE))):
        owner = _key(entry["id"])
        if listed.setdefault(owner, entry[FILE]) != entry[FILE]:
            raise DataError(
                f"{path}, image {number}: {entry[FILE]} has the id {owner} of {listed[owner]}; whose are its "
                "annotations? Two files were merged without counting anew: use one of them at a time, or number again"
            )
        yield f"image {number}", entry | {CAPTION: captions.get(owner, []), LABEL: list(labels.get(owner, {}))}
    for owner in (owner for owner in dict.fromkeys([*captions, *labels]) if owner not in listed):
        yield f"annotations of image {owner}", {CAPTION: captions.get(owner, []), LABEL: list(labels.get(owner, {}))}


def _key(number: Any) -> str:
    """An id by which 7, 7.0 and "7" are one."""
    whole = isinstance(number, float) and number.is_integer()
    return str(int(number)) if whole else str(number)


def _entries(path: Path, content: dict[str, Any], name: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    entries = content.get(name) or []
    if not isinstance(entries, list):
        raise DataError(f"{path}: `{name}` should be a list, found {type(entries).__name__}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or any(key not in entry for key in keys):
            raise DataError(f"{path}: entry {number} of `{name}` has no {' or no '.join(keys)}: {str(entry)[:60]}")
    return entries
