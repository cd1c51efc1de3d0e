"""Paths of all artefacts. The same folders stand in dvc.yaml, each once.

The functions take names and return paths relative to the repository's root, which is where
DVC runs every stage.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from twinlens.core.errors import FetchError, TwinLensError

DATA = Path("data")
METRICS = Path("metrics")


STAGES = {  # that write the folders of `data`
    **{"raw": "download", "filtered": "filter", "resized": "resize", "grouped": "group", "captioned": "caption"},
    **{"tasks": "tasks", "trained": "train", "embedded": "embed", "ranked": "rank", "evaluated": "evaluate"},
}


def stage_of(path: Path) -> str:
    """The stage that writes a file of `data`; its folder's name where that is none of them."""
    parts = path.parts
    folder = parts[parts.index("data") + 1] if "data" in parts[:-1] else path.parent.name
    return STAGES.get(folder, folder)


def card(kind: str, name: str) -> Path:
    """The part of a card that decides results, which the stages depend on: `validate` writes it.

    Args:
        kind: `datasets`, `models` or `captioners`.
        name: the card's.
    """
    return DATA / "cards" / kind / f"{name}.json"


def origins() -> Path:
    """Where the pictures come from, and what model and captioner were trained on before: `validate` writes it."""
    return DATA / "cards" / "origins.json"


def budget_card() -> Path:
    """What of `cards/budget.yaml` and the model's card decides what is tried of its vectors: `validate` writes it."""
    return DATA / "cards" / "budget.json"


def prices_card() -> Path:
    """What machines and services cost, of `cards/prices.yaml`: `validate` writes it, only `evaluate` depends on it."""
    return DATA / "cards" / "prices.json"


def sources(dataset: str) -> Path:
    """What is known of the places on this machine that a dataset's card names: `download` depends on all of it."""
    return DATA / "watched" / dataset


def named_places(dataset: str) -> Path:
    """The places that the card names, as `validate` writes them: none where all is fetched from elsewhere or drawn."""
    return sources(dataset) / "places.json"


def watched(dataset: str) -> Path:
    """The files there by name, size and time, as `watch` saw them; of watched datasets only."""
    return sources(dataset) / "files.json"


def raw(dataset: str) -> Path:
    """Downloaded or drawn files: a manifest, and pixels where there is no archive."""
    return DATA / "raw" / dataset


def filtered(dataset: str) -> Path:
    """Tables `images`, `captions` and `dropped`."""
    return DATA / "filtered" / dataset


def resized(dataset: str) -> Path:
    """Shards of JPEG bytes, their `index`, and `notes` on pictures mended or set aside."""
    return DATA / "resized" / dataset


def grouped(dataset: str) -> Path:
    """Every usable picture with its split, its object set and whether it is in the pool."""
    return DATA / "grouped" / dataset


def dataset_card(dataset: str) -> Path:
    """Statistics of a dataset: small, and kept by git rather than DVC, so that a change shows in a diff."""
    return METRICS / "datasets" / f"{dataset}.json"


def captioned(dataset: str, captioner: str) -> Path:
    """Generated captions of the pool."""
    return DATA / "captioned" / dataset / captioner


def tasks(dataset: str, captioner: str) -> Path:
    """Queries, items and judgements, one folder per task, and the inputs that they are made of."""
    return DATA / "tasks" / dataset / captioner


def trained(dataset: str, model: str) -> Path:
    """Trained weights, or a note that the card needs no training."""
    return DATA / "trained" / dataset / model


def embedded(dataset: str, model: str) -> Path:
    """Unit vectors and their ids, one pair of files for each source."""
    return DATA / "embedded" / dataset / model


def calibrated(dataset: str, model: str) -> Path:
    """How sure a search by words is of its first picture: the rule, or why there is none."""
    return DATA / "calibrated" / dataset / f"{model}.json"


def ranked(dataset: str, model: str) -> Path:
    """Runs, with the queries and items they are about, one folder per task."""
    return DATA / "ranked" / dataset / model


def evaluated(dataset: str, model: str) -> Path:
    """Every measure of every query."""
    return DATA / "evaluated" / dataset / model


def indexed(dataset: str, model: str, captioner: str) -> Path:
    """The search index's manifest: which table answers. The table itself is in `index_tables`."""
    return DATA / "indexed" / dataset / model / f"{captioner}.json"


def report() -> Path:
    """The report, one self-contained page."""
    return Path("report") / "index.html"


def cost(stage: str, *names: str) -> Path:
    """Cost record of a stage: beside its output, because time differs when bytes do not."""
    return (DATA / "costs" / stage).joinpath(*names).with_suffix(".json")


def gates(stage: str, *names: str) -> Path:
    """Warnings of a stage's sanity gates: beside its output, so that no later stage but `evaluate` depends on them."""
    return (DATA / "gates" / stage).joinpath(*names).with_suffix(".json")


def scratch() -> Path:
    """Finished parts of unfinished work. Survives a killed run and is shared by temporary workspaces.

    `DVC_ROOT` is the main checkout even inside `dvc exp run --temp` or `--queue`.

    Raises:
        TwinLensError: TWINLENS_SCRATCH is no local folder.
    """
    if own := _folder("TWINLENS_SCRATCH"):
        return Path(own)
    return Path(os.environ.get("DVC_ROOT", ".")) / ".dvc" / "tmp" / "twinlens"


def index_tables() -> Path:
    """Tables of the search index, one folder per content: bytes differ from build to build, so DVC keeps none."""
    return scratch() / "index"


def downloads() -> Path:
    """Downloaded archives, outside DVC: they are large, and their publishers keep them.

    Raises:
        TwinLensError: TWINLENS_DOWNLOADS is no local folder.
    """
    if own := _folder("TWINLENS_DOWNLOADS"):
        return Path(own).expanduser()
    return Path("~/.cache/twinlens/downloads").expanduser()


def environments() -> Path:
    """Python environments of models with code of their own, made once for all projects of this user.

    Raises:
        TwinLensError: TWINLENS_ENVIRONMENTS is no local folder.
    """
    return Path(_folder("TWINLENS_ENVIRONMENTS") or "~/.cache/twinlens/environments").expanduser().absolute()


def _folder(variable: str) -> str | None:
    own = os.environ.get(variable)
    if own and "://" in own:  # as a path it would be a folder of that name, here
        raise TwinLensError(f"{variable} is {own}: it must be a local folder")
    return own


def expand(location: str) -> Path:
    """Expand ~ and $VARIABLES in a path from a card, or one of `file://`; relative paths start at the main checkout.

    Raises:
        FetchError: a variable is not set, or it is the URL of something else.
    """
    expanded = os.path.expandvars(location.removeprefix("file://"))
    if unset := re.findall(r"\$\{?(\w+)", expanded):
        raise FetchError(f"{location}: the environment variable {unset[0]} is not set")
    if "://" in expanded:  # as a path it would be a folder of that name, here
        raise FetchError(
            f"{location}: wanted a folder or file of this machine. What is read in buckets: docs/storage.md"
        )
    path = Path(expanded).expanduser()
    return path if path.is_absolute() else Path(os.environ.get("DVC_ROOT", ".")) / path
