"""Lists of ImageNet classes, kept as data: index, WordNet id and name, one class a line."""

from __future__ import annotations

from pathlib import Path

from twinlens.errors import ParamsError, nearest


def read_classes(name: str) -> dict[int, str]:
    """The names of a list's classes, by their index in ILSVRC 2012.

    Raises:
        ParamsError: there is no such list.
    """
    folder = Path(__file__).parent
    path = folder / f"{name}.tsv"
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.tsv")]
        raise ParamsError(f"classes: there is no list '{name}' in twinlens/datasets/classes ({nearest(name, known)})")
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {int(index): label for index, _, label in rows}
