"""Small pictures and archives for tests of datasets."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def pixels(number: int, size: tuple[int, int] = (50, 40)) -> Image.Image:
    """Noise that is another picture for every number."""
    noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def encoded(picture: Image.Image, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def jpeg(number: int) -> bytes:
    return encoded(pixels(number))


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def parquet(
    rows: list[dict[str, Any]], rows_per_group: int = 100, classes: dict[str, list[str]] | None = None
) -> bytes:
    """Rows as the hub writes them: an `image` is a struct of bytes and path, class names stand in the schema."""
    table = pa.Table.from_pylist(rows)
    if classes is not None:
        features = {name: {"names": names, "_type": "ClassLabel"} for name, names in classes.items()}
        noted = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(noted)
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=rows_per_group)
    return sink.getvalue()


def picture_cell(number: int, path: str | None = None) -> dict[str, Any]:
    return {"bytes": jpeg(number), "path": path}
