"""`twinlens show`: everything that is known of one picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from twinlens.apps.commands.completion import complete_image_ids
from twinlens.apps.commands.options import Captioner, Dataset, Json, Model
from twinlens.apps.commands.terminal import print_table, show_work, strip_control
from twinlens.core import paths
from twinlens.core.errors import QueryError


def show(
    image_id: Annotated[str, typer.Argument(help="Id of an indexed picture.", autocompletion=complete_image_ids)],
    near: Annotated[int, typer.Option(min=0, help="Nearest other pictures to list.")] = 5,
    thumbnail: Annotated[
        Path | None, typer.Option("--thumbnail", "-t", help="A file to write its thumbnail to, as JPEG.")
    ] = None,
    dataset: Dataset = None,
    model: Model = None,
    captioner: Captioner = None,
    as_json: Json = False,
) -> None:
    """Show a picture's captions, labels, split and nearest others.

    Examples: `twinlens show test-00012`, `twinlens show test-00012 --thumbnail small.jpg --near 0`.

    Exit codes: 0 found, 2 no such picture (the message names the nearest ids) or no index.
    """
    from twinlens import Hit, Searcher

    with show_work("looking it up"):
        searcher = Searcher(dataset, model, captioner)
        picture = searcher.picture(image_id)
        hits: tuple[Hit, ...] = ()
        if near and searcher.index.spaces:
            hits = searcher.search(like=picture.image_id, mode="vector", k=near).hits
    split = _split(searcher.dataset, picture.image_id)
    if thumbnail is not None:
        try:
            thumbnail.write_bytes(picture.thumbnail)
        except OSError as error:
            raise QueryError(f"{thumbnail} cannot be written: {error.strerror}; name another file") from None
    if as_json:
        nearest = [{"image_id": hit.image_id, "score": hit.score} for hit in hits]
        typer.echo(json.dumps(picture.to_dict() | {"split": split, "nearest": nearest}, indent=2))
        return
    rows = [("id", picture.image_id), ("split", split or "unknown"), ("labels", ", ".join(picture.labels))]
    rows += [("caption", caption) for caption in picture.captions]
    if picture.caption_generated:
        rows.append((f"caption by {searcher.captioner}", picture.caption_generated))
    if thumbnail is not None:
        rows.append(("thumbnail", str(thumbnail)))
    rows += [("near", f"{hit.image_id} {hit.score:.4f} {strip_control(', '.join(hit.labels))}") for hit in hits]
    print_table(["what", "value"], rows)


def _split(dataset: str, image_id: str) -> str | None:
    """The picture's split; None where the tables of its dataset are not here."""
    file = paths.grouped(dataset) / "images.parquet"
    if not file.exists():
        return None
    import pyarrow.parquet as pq

    found = pq.read_table(file, columns=["image_id", "split"], filters=[("image_id", "=", image_id)])["split"]
    return str(found[0]) if len(found) else None
