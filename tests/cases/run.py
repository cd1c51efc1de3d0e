"""Run files and a card as the stages download, filter and resize do, and tell what came out."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tests.datasets.adapters.own import Case
from twinlens.config.load import read_params
from twinlens.core.errors import DataError
from twinlens.core.shards import shard_path
from twinlens.datasets.filter import apply_rules
from twinlens.images.resize import resize_pictures

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """What the three stages left."""

    captions: dict[str, list[str]]  # of each picture in the shards, by its file
    labels: dict[str, list[str]]
    splits: dict[str, str]
    dropped: list[tuple[str, str]]  # id and rule
    pixels: dict[str, np.ndarray]
    mended: dict[str, list[str]]
    aside: dict[str, str]  # why a picture is in no shard


def run(folder: Path, files: dict[str, bytes], /, **card: Any) -> Outcome:
    """Write the files below `folder/files` and run the card on them, with the settings of params.yaml.

    Raises:
        DataError: a stage refuses them.
    """
    params = read_params(ROOT / "params.yaml")
    made = Case(folder, files, **card)
    made.adapter.download(made.raw)
    lenient = params.filter.model_copy(update={"require_caption": False})
    kept = apply_rules(made.adapter.annotations(made.raw), lenient)
    names, ids = kept.images["file"].to_list(), kept.images["image_id"].to_list()
    pictures = zip(ids, names, made.adapter.read_pictures(made.raw, names), strict=True)
    resized = resize_pictures(pictures, len(ids), params.resize, folder / "resized", 1)
    file_of = dict(zip(ids, names, strict=True))
    captions: dict[str, list[str]] = {file_of[i]: [] for i in resized.index["image_id"]}
    for image_id, text in kept.captions.select("image_id", "text").iter_rows():
        if file_of[image_id] in captions:
            captions[file_of[image_id]].append(text)
    stored = {
        row["image_id"]: np.asarray(Image.open(io.BytesIO(row["jpeg"])).convert("RGB"))
        for number in set(resized.index["shard"])
        for row in pq.read_table(shard_path(folder / "resized", number)).to_pylist()
    }
    mended: dict[str, list[str]] = {}
    for image_id, _, note in resized.notes.filter(resized.notes["kept"]).iter_rows():
        mended.setdefault(file_of[image_id], []).append(note)
    return Outcome(
        captions,
        dict(zip(names, kept.images["labels"].to_list(), strict=True)),
        dict(zip(names, kept.images["split"].to_list(), strict=True)),
        list(kept.dropped.select("id", "rule").iter_rows()),
        {file_of[image_id]: picture for image_id, picture in stored.items()},
        mended,
        {file_of[i]: note for i, _, note in resized.notes.filter(~resized.notes["kept"]).iter_rows()},
    )


def refusal(folder: Path, files: dict[str, bytes], /, **card: Any) -> str:
    """The message with which a stage refuses them.

    Raises:
        AssertionError: none does.
    """
    try:
        found = run(folder, files, **card)
    except DataError as error:
        return str(error)
    raise AssertionError(f"wanted a refusal, found {found.captions}")


def table(folder: Path, name: str, content: str | bytes, photos: dict[str, bytes], /, **card: Any) -> Outcome:
    """Run a folder of photos with a table of them."""
    return run(folder, _with_photos(name, content, photos), **(_folder_card(folder, name) | card))


def table_refusal(folder: Path, name: str, content: str | bytes, photos: dict[str, bytes], /, **card: Any) -> str:
    """The message with which such a table is refused."""
    return refusal(folder, _with_photos(name, content, photos), **(_folder_card(folder, name) | card))


def _with_photos(name: str, content: str | bytes, photos: dict[str, bytes]) -> dict[str, bytes]:
    raw = content.encode() if isinstance(content, str) else content
    return {name: raw} | {f"photos/{photo}": made for photo, made in photos.items()}


def _folder_card(folder: Path, name: str) -> dict[str, Any]:
    base = folder / "files"
    columns = {"file": "file", "caption": "caption"}
    return {"adapter": "folder", "images": str(base / "photos"), "table": str(base / name), "columns": columns}
