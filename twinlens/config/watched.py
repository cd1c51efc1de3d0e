"""Watched datasets: those whose files, in folders of one's own, are looked at by every run of the pipeline."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from twinlens.config.yaml_file import parse_yaml
from twinlens.core.errors import ParamsError
from twinlens.core.scratch import write_whole_text

FILE = "watched.yaml"  # in the folder of cards; dvc.yaml reads it too
KEY = "watched"


def read_watched(cards: Path, known: Container[str] | None = None) -> list[str]:
    """Read the names of the watched datasets.

    Args:
        cards: the folder of cards.
        known: the datasets that have a card; not asked for if absent.

    Raises:
        ParamsError: the file is not there or is no list of names, or a name has no card.
    """
    path = cards / FILE
    try:
        content = parse_yaml(path.read_bytes(), path)
    except FileNotFoundError:
        raise ParamsError(f"{path} is not here: write `{KEY}: []` into it, which watches no dataset") from None
    names = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or set(content) != {KEY}:
        raise ParamsError(f"{path} should hold `{KEY}:` and a list of datasets' names, `{KEY}: []` for none")
    if known is not None and (unknown := [name for name in names if name not in known]):
        raise ParamsError(f"{path}: '{unknown[0]}' has no card in {cards / 'datasets'}: take the name out")
    return names


def add_watched(name: str, cards: Path) -> None:
    """Enter a dataset, unless it is there; comments above the list stay.

    Raises:
        ParamsError: see `read_watched`.
    """
    names = read_watched(cards)
    if name in names:
        return
    path = cards / FILE
    lines = path.read_text(encoding="utf-8").splitlines()
    above = [line for line in lines if line.startswith("#")]
    write_whole_text(path, "\n".join([*above, f"{KEY}:", *(f"- {own}" for own in [*names, name])]) + "\n")
