"""`twinlens show`: everything that is known of one picture; and what sources report of the model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from twinlens.apps.commands.completion import complete_image_ids
from twinlens.apps.commands.options import Captioner, Dataset, Json, Model
from twinlens.apps.commands.terminal import note, print_table, show_work, strip_control
from twinlens.core import paths
from twinlens.core.errors import QueryError


def show(
    image_id: Annotated[
        str | None, typer.Argument(help="Id of an indexed picture.", autocompletion=complete_image_ids)
    ] = None,
    near: Annotated[int, typer.Option(min=0, help="Nearest other pictures to list.")] = 5,
    thumbnail: Annotated[
        Path | None, typer.Option("--thumbnail", "-t", help="A file to write its thumbnail to, as JPEG.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Show what papers report of the model beside what was measured here.")
    ] = False,
    dataset: Dataset = None,
    model: Model = None,
    captioner: Captioner = None,
    as_json: Json = False,
) -> None:
    """Show a picture's captions, labels, split and nearest others.

    With `--published` and no picture: the figures that the model's card has from papers, beside ours, and which
    conditions differ (split, pool, captions, prompt, resolution, precision).

    Examples: `twinlens show test-00012`, `twinlens show test-00012 --thumbnail small.jpg --near 0`,
    `twinlens show --published --model vit-b-32 --dataset flickr30k`.

    Exit codes: 0 found, 2 no such picture (the message names the nearest ids) or no index.
    """
    if published == (image_id is not None):
        raise QueryError("name a picture by its id, or write `--published` without one")
    if image_id is None:
        _show_published(dataset, model, as_json)
        return
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


def _show_published(dataset: str | None, model: str | None, as_json: bool) -> None:
    from twinlens.config.load import read_params
    from twinlens.evaluation.card_figures import read_figures
    from twinlens.indexing.validate import check_name

    params = read_params()
    dataset = check_name(dataset or params.dataset, params.datasets, "dataset")
    model = check_name(model or params.model, params.models, "model")
    folder = paths.evaluated(dataset, model)
    if not folder.is_dir():
        raise QueryError(
            f"{model} was not measured on {dataset} here: `dvc exp run -S dataset={dataset} -S model={model}`"
        )
    figures = read_figures(folder)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in figures], indent=2))
        return
    if not figures:
        note(f"the card of {model} has no figures that are about the pictures of {dataset}")
        return
    print_table(
        ["source", "dataset", "task", "measure", "published", "ours", "interval", "conditions that differ"],
        [
            [
                *(one.source, one.dataset, one.task, one.measure, f"{one.published:.4f}", f"{one.ours:.4f}"),
                "-" if one.low is None or one.high is None else f"{one.low:.4f} to {one.high:.4f}",
                "; ".join(one.differs) or "none that is known",
            ]
            for one in figures
        ],
    )


def _split(dataset: str, image_id: str) -> str | None:
    """The picture's split; None where the tables of its dataset are not here."""
    file = paths.grouped(dataset) / "images.parquet"
    if not file.exists():
        return None
    import pyarrow.parquet as pq

    found = pq.read_table(file, columns=["image_id", "split"], filters=[("image_id", "=", image_id)])["split"]
    return str(found[0]) if len(found) else None
