"""Lists of ImageNet classes, as data: index, WordNet id, name."""

from __future__ import annotations

from pathlib import Path

from twinlens.core.errors import ParamsError, suggest_nearest


def read_classes(name: str) -> dict[int, str]:
    """Read the names of a list's classes, by their index in ILSVRC 2012.

    Raises:
        ParamsError: there is no such list.
    """
    return {int(index): label for index, _, label in _rows(name)}


def read_wordnet_ids(name: str) -> dict[int, str]:
    """Read the WordNet ids of a list's classes, by their index in ILSVRC 2012.

    Raises:
        ParamsError: there is no such list.
    """
    return {int(index): wordnet_id for index, wordnet_id, _ in _rows(name)}


def _rows(name: str) -> list[list[str]]:
    folder = Path(__file__).parent
    path = folder / f"{name}.tsv"
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.tsv")]
        raise ParamsError(
            f"classes: there is no list '{name}' in twinlens/datasets/classes ({suggest_nearest(name, known)})"
        )
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
