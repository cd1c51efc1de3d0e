"""Inputs to embed: named tables of texts and pictures that the tasks ask for.

Each row holds a text, a picture, or both. `embed` turns an input into vectors with whatever a model can read, and knows
nothing of what they are for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinlens.core.absence import advise
from twinlens.core.errors import DataError, remake

if TYPE_CHECKING:
    import polars as pl

IMAGES, CAPTIONS, JOINED, GENERATED = "images", "captions", "captions_joined", "captions_generated"
CLASSES, NEGATIVES = "classes", "negatives"  # prompts of the classes; pictures that are never ranked
COMPOSED_PAIRS = "composed_pairs"  # pictures with the words that say what is to be different, read together
VALIDATION_IMAGES, VALIDATION_CAPTIONS = "validation_images", "validation_captions"  # to choose weights on
VALIDATION_GENERATED = "validation_generated"

# An input may be embedded again; its vectors then have a name that ends so.
UNTRAINED = "_untrained"  # by a trained model as it was before
OTHER_WAY = "_image_to_caption"  # by the heads of that direction, where each has its own

FILE = "inputs.json"
LEFT_OUT = "left_out.json"  # beside vectors: the inputs that have none, with reasons
PICTURE = ("shard", "row", "sha256")  # columns: where a picture lies, and what it is


@dataclass(frozen=True)
class Input:
    """Texts or pictures to embed."""

    name: str
    rows: pl.DataFrame  # table INPUTS, of which columns may be missing that it has no use for
    shared: bool = False  # of use only where words and pictures can be compared
    embedded: bool = True  # whether it gets vectors at all: some texts are searched by their words only
    again: tuple[str, ...] = ()  # UNTRAINED, OTHER_WAY: how it is embedded again where a model allows it

    @property
    def asks(self) -> bool:
        """Whether it mostly asks: words that people wrote do, those that stand for pictures do not."""
        return "text" in self.reads and self.name not in (JOINED, GENERATED, VALIDATION_GENERATED)

    @property
    def reads(self) -> frozenset[str]:
        """Modalities that a model must read to embed it: `text`, `image`, or both."""
        kinds = {"text": "text", "image": "sha256"}
        return frozenset(kind for kind, column in kinds.items() if column in self.rows.columns)


def build_picture_input(name: str, groups: pl.DataFrame, *, shared: bool = False, again: tuple[str, ...] = ()) -> Input:
    """Build an input of some pictures, given as rows of table GROUPS."""
    import polars as pl

    return Input(name, groups.select(pl.col("image_id").alias("id"), "image_id", *PICTURE), shared, again=again)


def write_inputs(inputs: Iterable[Input], folder: Path) -> None:
    """Write each input as `<name>.parquet`, and what there is to say of them as `inputs.json`."""
    import polars as pl

    from twinlens.core import tables

    said: dict[str, Any] = {}
    for one in inputs:
        missing = [name for name in tables.INPUTS.names if name not in one.rows.columns]
        rows = one.rows.with_columns(pl.lit(None).alias(name) for name in missing)
        tables.write_table(rows, folder / f"{one.name}.parquet", tables.INPUTS)
        said[one.name] = {
            "reads": sorted(one.reads),
            "rows": len(one.rows),
            "shared": one.shared,
            "embedded": one.embedded,
            "again": list(one.again),
        }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def read_inputs(folder: Path) -> dict[str, Input]:
    """Read what `write_inputs` wrote, by name.

    Raises:
        DataError: it is not there.
    """
    from twinlens.core import tables

    try:
        said = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        remedy = advise("`dvc repro tasks` makes it, `dvc pull tasks` fetches it")
        raise DataError(f"{folder / FILE} is not here: {remedy}") from None
    except ValueError as error:
        raise DataError(f"{folder / FILE} is damaged ({str(error)[:120]}): {remake('tasks')}") from None
    columns = {"text": ["text"], "image": list(PICTURE)}
    found = {}
    for name, one in said.items():
        wanted = ["id", "image_id", *(column for kind in one["reads"] for column in columns[kind])]
        rows = tables.read_table(folder / f"{name}.parquet", tables.INPUTS, wanted)
        found[name] = Input(name, rows, one["shared"], one["embedded"], tuple(one["again"]))
    return found


def write_left_out(left_out: Mapping[str, str], folder: Path) -> None:
    """Write, beside the vectors, which inputs have none and why; nothing where there are no such."""
    if left_out:
        (folder / LEFT_OUT).write_text(json.dumps(dict(left_out), indent=2) + "\n", encoding="utf-8")


def read_left_out(folder: Path) -> dict[str, str]:
    """Read what `write_left_out` wrote."""
    path = folder / LEFT_OUT
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def check_ids(inputs: Mapping[str, Input], name: str, ids: list[str]) -> None:
    """Refuse vectors that are not those of their input.

    Args:
        inputs: by name.
        name: of the vectors: an input's, which a suffix may follow.
        ids: theirs.

    Raises:
        DataError: they are others, or in another order.
    """
    own = name.removesuffix(UNTRAINED).removesuffix(OTHER_WAY)
    if own not in inputs or ids != inputs[own].rows["id"].to_list():
        raise DataError(f"{name}: the vectors' ids are not those of the tasks' inputs: `dvc repro -f embed`")
