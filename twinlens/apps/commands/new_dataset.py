"""`twinlens new-dataset`: a card for a folder of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinlens.apps.commands.terminal import note, strip_control
from twinlens.core.errors import DataError, ParamsError
from twinlens.core.scratch import write_whole_text

if TYPE_CHECKING:
    from twinlens.apps.commands.dataset_cards import Extent

CARDS = Path("cards")


def new_dataset(
    folder: Annotated[
        Path, typer.Argument(help="A folder of pictures, tar shards or Parquet files; or a zip of pictures.")
    ],
    table: Annotated[
        Path | None,
        typer.Option("--table", "-t", help="CSV, TSV, JSONL, JSON (COCO's too) or Parquet; looked for if absent."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Of the card; made of the folder's if absent.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a card of that name.")] = False,
) -> None:
    """Look at a folder and write the card of a dataset for it; say what was found, and what to run next.

    Read are pictures with a table of captions and labels, pictures in folders by class, annotations as COCO writes
    them, tar shards (WebDataset), Parquet files with pictures, and COCO, Flickr and ObjectNet as published.

    Examples: `twinlens new-dataset ~/photos`, `twinlens new-dataset ~/photos --table ~/photos.csv --name holiday`.
    """
    from twinlens.apps.commands.dataset_cards import (
        NO_CAPTIONER,
        check_text,
        format_card,
        make_name,
        measure_extent,
        propose,
    )
    from twinlens.apps.commands.dataset_layouts import find_layout
    from twinlens.config.cards import NAME
    from twinlens.config.load import read_params
    from twinlens.config.watched import add_watched

    params = read_params()
    folder = _find_folder(folder)
    name = make_name(folder) if name is None else name
    if not NAME.fullmatch(name):
        near = make_name(Path(name))
        raise ParamsError(f"'{name}' cannot name a card: lower-case letters, digits, - and _ only; try --name {near}")
    path = CARDS / "datasets" / f"{name}.yaml"
    if path.exists() and not force:
        raise ParamsError(f"{path} is there already: take another --name, or write over it with --force")
    layout = find_layout(folder, _find_table(folder, table), name)
    card = check_text(format_card(layout, "all", layout.told))
    extent = measure_extent(card, params.filter)
    proposal = propose(extent)
    write_whole_text(path, format_card(layout, proposal.pool, layout.told))
    add_watched(name, CARDS)
    _say(f"found: {layout.told}")
    if extent is not None:
        for line in _describe(extent):
            _say(line)
    for line in layout.notes:
        _say(f"  note: {line}")
    _say(f"written: {path}")
    if extent is not None and not extent.captions and not extent.labels:
        note(
            "There are no captions and no labels, so nothing says which picture is right for a query: put a table "
            "beside the pictures (file,caption), or the pictures into folders by class, and run this again with --force"
        )
        return
    _say(f"\nnext, as {proposal.why}:")
    _say(f"    dvc exp run -S dataset={name} -S captioner={proposal.captioner} -S model={proposal.model}")
    if proposal.captioner == NO_CAPTIONER:
        _say(f"{proposal.model} is fetched from the Hugging Face hub; `twinlens models` lists others")


def _find_folder(folder: Path) -> Path:
    from twinlens.datasets.readers.names import is_picture
    from twinlens.datasets.readers.tabular import ENDINGS

    found = folder.expanduser()
    if not found.exists():
        if ":/" in str(folder):  # one slash is left of a URL's two
            raise DataError(
                f"{folder} is no folder of this machine. For pictures in a bucket write a card with `source` or "
                "`images` as s3://bucket/folder: docs/storage.md"
            )
        raise DataError(f"{folder} is not there; wanted a folder of pictures")
    if found.is_file() and found.suffix.lower() in ENDINGS:
        raise DataError(
            f"{folder} is a table; wanted the folder of its pictures, and the table behind it: "
            f"`twinlens new-dataset FOLDER --table {folder}`"
        )
    if found.is_file() and is_picture(found.name):
        raise DataError(f"{folder} is a picture; wanted the folder in which it lies: {folder.parent}")
    return found.absolute()


def _find_table(folder: Path, table: Path | None) -> Path | None:
    if table is None:
        return None
    own = table.expanduser()
    places = [own.absolute()] if own.is_absolute() else [own.absolute(), folder / own]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataError(f"the table {table} is not there: looked for {' and '.join(map(str, places))}")
    return found


def _say(text: str) -> None:
    typer.echo(f"{text[: len(text) - len(text.lstrip())]}{strip_control(text)}")  # as it is set in, without what steers


def _describe(extent: Extent) -> list[str]:
    splits = ", ".join(f"{count:,} {split}" for split, count in extent.pictures.items())
    total, captioned = sum(extent.pictures.values()), sum(extent.captioned.values())
    common = ", ".join(f"{label} ({count:,})" for label, count in extent.labels.most_common(4))
    lines = [
        f"  pictures: {total:,} ({splits})",
        f"  captions: {extent.captions:,}, of {captioned:,} pictures",
        f"  labels: {len(extent.labels):,}{f', such as {common}' if common else ''}",
    ]
    for rule, (count, first) in extent.dropped.items():
        lines.append(f"  left out: {count:,} x {rule}; {first[:200]}")
    return lines
