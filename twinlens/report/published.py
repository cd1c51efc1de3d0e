"""Published figures of source projects beside ours: only where dataset, model and captioner are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "published.yaml"


@dataclass(frozen=True)
class Figure:
    """One published value beside ours, both by the source's definition."""

    source: str
    where: str
    task: str
    retriever: str
    measure: str
    published: float
    ours: float
    why: str  # what is known to make them differ

    @property
    def difference(self) -> float:
        """Ours minus the published one."""
        return self.ours - self.published


def read_published() -> list[dict[str, Any]]:
    """Read the sources, each with its figures, from `published.yaml`."""
    found: list[dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def select_published(names: dict[str, str], metrics: dict[str, Any]) -> list[Figure]:
    """Select the published figures that are about what was measured here.

    Args:
        names: the dataset, model and captioner measured.
        metrics: content of the metrics files, by name without `.json`.
    """
    return [
        Figure(source["title"], source["where"], source["task"], figure["retriever"], measure, value, ours, why)
        for source in read_published()
        if source["dataset"] == names["dataset"] and source["file"] is not None
        for figure, ours_of, why in _matching(source, names, metrics)
        for measure, value in zip(source["measures"], figure["values"], strict=True)
        if value is not None and (ours := ours_of.get(measure)) is not None
    ]


def _matching(
    source: dict[str, Any], names: dict[str, str], metrics: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], dict[str, float], str]]:
    for figure in source["figures"]:
        same_captioner = figure.get("captioner", names["captioner"]) == names["captioner"]
        measured = metrics[source["file"]].get(source["task"], {}).get(figure["retriever"])
        if names["model"] in figure["models"] and same_captioner and measured is not None:
            own = f"; {figure['why']}" if "why" in figure else ""
            yield figure, measured, f"{source['why'].strip()}{own}"
