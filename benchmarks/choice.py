"""A copy of the project in another folder, with settings and cards of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent


def copy_choice(folder: Path, *code: str) -> None:
    """Copy params.yaml and the cards, and folders of code if any are named."""
    for name in ("cards", *code):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")


def change_card(folder: Path, card: str, values: Mapping[str, Any]) -> None:
    """Set keys of a card, dotted; a card is named as a base is: `datasets/scenes`."""
    path = folder / "cards" / f"{card}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for dotted, value in values.items():
        *parents, last = dotted.split(".")
        node = content
        for parent in parents:
            node = node[parent]
        node[last] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
