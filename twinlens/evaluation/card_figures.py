"""Published figures on a model's card, held against what was measured here, condition by condition.

"My number is not the paper's" has few causes: another split or pool, other captions that count, a prompt, another
resolution. So the figures on a card stand with their conditions (`about.published`), and a difference is called one
only where the conditions are the same; elsewhere the conditions that differ are named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from twinlens.config.base import PublishedFigures
from twinlens.config.datasets import BaseDatasetCard
from twinlens.config.gates import Gates
from twinlens.config.models import ModelCard
from twinlens.core.scratch import write_whole_text

RETRIEVER = "image"  # pixels alone, as sources search
APART = 0.01  # beyond the interval: what other decoders, resizing and precision make of the same weights
CLOSE = 1e-3  # of the captions: 25,010 of COCO's test are the 25,000 of those who take five of each picture
FILE = "published.json"


@dataclass(frozen=True)
class RunConditions:
    """Conditions of what was measured, beside those that its pool tells."""

    dataset: str
    precision: str  # float32, bfloat16, ...
    stored_px: int | None  # the shorter side to which pictures were shrunk; None: never


@dataclass(frozen=True)
class HeldFigure:
    """A published value and ours, with the conditions that differ."""

    source: str
    dataset: str  # of the source
    task: str
    measure: str
    published: float
    ours: float
    low: float | None  # of our interval
    high: float | None
    differs: list[str] = field(default_factory=list)  # conditions, in words; empty: none that is known

    def trouble(self) -> str | None:
        """Tell, in words, a published value beyond our interval under the same conditions; None where there is none."""
        low, high = (self.ours if end is None else end for end in (self.low, self.high))
        if self.differs or low - APART <= self.published <= high + APART:
            return None
        return (
            f"{self.task}, {RETRIEVER}: {self.measure} is {self.ours:.4f} (between {low:.4f} and {high:.4f}), "
            f"{self.source} reports {self.published:.4f} for this model under the same conditions, as far as they are "
            "known: look at the checkpoint, then at how texts and pictures are fed (gate `conformity`)"
        )


def compare_figures(
    card: ModelCard,
    run: RunConditions,
    datasets: Mapping[str, BaseDatasetCard],
    retrieval: Mapping[str, Any],
    intervals: Mapping[str, Any],
) -> list[HeldFigure]:
    """Hold the published figures of a model against what was measured.

    Those of other data are left out; so are all where the model was trained here, as its weights are others.

    Args:
        card: the model's card.
        run: the conditions of what was measured.
        datasets: cards by name.
        retrieval: content of `metrics/retrieval.json`.
        intervals: content of `metrics/intervals.json`.
    """
    if card.joint is None or card.train is not None:
        return []
    input_px, prompt = card.joint.about.input_px, getattr(card.joint, "prompt", "")
    found = []
    for figures in card.joint.about.published:
        measured = retrieval.get(figures.task, {}).get(RETRIEVER)
        if measured is None or not _is_of_same_pictures(figures.dataset, run.dataset, datasets):
            continue
        differs = list(_name_differences(figures, run, retrieval[figures.task]["pool"], input_px, prompt))
        for measure, value in figures.values.items():
            if measure in measured:
                interval = intervals.get(figures.task, {}).get(RETRIEVER, {}).get(measure, {})
                ends = interval.get("low"), interval.get("high")
                where = f"{figures.dataset}, {figures.split}"
                ours = float(measured[measure])
                found.append(HeldFigure(figures.source, where, figures.task, measure, value, ours, *ends, differs))
    return found


def _is_of_same_pictures(theirs: str, ours: str, datasets: Mapping[str, BaseDatasetCard]) -> bool:
    if theirs == ours:
        return True
    known = [set(datasets[name].origins) for name in (theirs, ours) if name in datasets]
    return len(known) == 2 and bool(known[0] & known[1])


def _name_differences(
    theirs: PublishedFigures, run: RunConditions, pool: Mapping[str, Any], input_px: int | None, prompt: str
) -> Iterator[str]:
    if run.dataset != theirs.dataset or pool["split"] != theirs.split:
        yield f"split: {pool['split']} of {run.dataset} here, {theirs.split} of {theirs.dataset} there"
    pictures, captions = pool["items"], pool["queries"]
    if theirs.task == "image_to_caption":
        pictures, captions = captions, pictures
    if pictures != theirs.pictures:
        yield f"pool: {pictures:,} pictures here, {theirs.pictures:,} there"
    each, wanted = captions / pictures, float(theirs.captions)
    if abs(each - wanted) > CLOSE * wanted:
        yield f"captions: {each:.2f} of a picture here, {theirs.captions} there"
    if prompt != theirs.prompt:
        yield f"prompt: {_quote(prompt)} here, {_quote(theirs.prompt)} there"
    if input_px is not None and input_px != theirs.input_px:
        yield f"resolution: {input_px} px here, {theirs.input_px} px there"
    if run.stored_px is not None and run.stored_px < theirs.input_px:
        yield f"resolution: pictures are stored at {run.stored_px} px here and enlarged (`resize.shortest_side_px`)"
    if theirs.precision is not None and theirs.precision != run.precision:
        yield f"precision: {run.precision} here, {theirs.precision} there"
    # `any` and `each` are what hit@k means in either direction here
    if theirs.counts != ("each" if theirs.task == "caption_to_image" else "any"):
        yield f"what counts: {theirs.counts} of a picture's captions there"


def _quote(prompt: str) -> str:
    return f"'{prompt}'" if prompt else "none"


def read_precision(cost: Path) -> str:
    """Read the precision that vectors were computed in, from the record of the `embed` stage."""
    device = str(json.loads(cost.read_text(encoding="utf-8"))["device"])  # cpu-float32, cuda-bfloat16-pixels
    return device.split("-")[1] if "-" in device else "float32"


def write_figures(figures: list[HeldFigure], folder: Path, gates: Gates) -> None:
    """Write what was compared into the folder of the `evaluate` stage, and tell the gate `published`."""
    for figure in figures:
        gates.check("published", figure.trouble())
    write_whole_text(folder / FILE, json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


def read_figures(evaluated: Path) -> list[HeldFigure]:
    """Read what was compared; nothing where the stage ran before there was such a file."""
    file = evaluated / FILE
    if not file.exists():
        return []
    return [HeldFigure(**figure) for figure in json.loads(file.read_text(encoding="utf-8"))]
