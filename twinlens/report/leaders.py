"""What the leaders of a leaderboard differ in: kinds of queries where they swap places, and what each finds.

It reads captions, labels and pictures of the dataset as the workspace has them; what is not there is left out and said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from twinlens.core import paths, tables
from twinlens.core.errors import DataError
from twinlens.evaluation.choose import Choice
from twinlens.evaluation.compare import find_most_changed
from twinlens.evaluation.entries import Entry
from twinlens.evaluation.slices import (
    CATEGORY,
    LEAST_CLUSTERS,
    Contrast,
    Side,
    Slice,
    bound_contrasts,
    compare_slices,
    cut_slices,
)
from twinlens.report import charts
from twinlens.report.changed_queries import name_query, read_query_texts
from twinlens.report.charts import Bar
from twinlens.report.galleries import make_thumbnails
from twinlens.tasks.base import Task

RIVALS = 3  # that the chosen one is compared with, slice by slice
CATEGORIES = 12  # told of each, or all that swap; those first, then the most frequent
CHANGED = 20  # queries told in words
SHOWN, FOUND = 3, 4  # queries shown of each direction, and items of each list
SIDE_PX = 112  # of their pictures: some 3 kB each, at most 54 of them
REAL, NONE = 4, 0  # markers of a swap that is shown, and of anything else
CHART = 200  # width of the differences beside the names: with these it is as wide as a phone


@dataclass(frozen=True)
class Material:
    """What the workspace has of a dataset: words of queries, labels of pictures, and where the pictures are."""

    texts: Mapping[str, str] = field(default_factory=dict)  # by query
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by picture
    places: pl.DataFrame | None = None  # `image_id`, `shard`, `row`
    shards: Path = Path()

    @classmethod
    def read(cls, dataset: str) -> Material:
        """Read what there is; tables that are not in the workspace are left out."""
        images = _read_if_there(paths.filtered(dataset) / "images.parquet", "image_id", "labels")
        places = _read_if_there(paths.grouped(dataset) / "images.parquet", "image_id", "shard", "row")
        labels = {} if images is None else dict(images.select("image_id", "labels").iter_rows())
        return cls(read_query_texts(dataset), labels, places, paths.resized(dataset))

    def make_thumbnails(self, image_ids: set[str]) -> dict[str, str]:
        """Make small pictures as data URIs, by id; none where the pictures are not in the workspace."""
        if self.places is None:
            return {}
        try:
            return make_thumbnails(image_ids, self.places, self.shards, SIDE_PX)
        except DataError:  # another pool's, or only the tables were fetched
            return {}


def _read_if_there(path: Path, *columns: str) -> pl.DataFrame | None:
    try:
        found = pl.from_arrow(tables.read_arrow(path))
    except DataError:
        return None
    assert isinstance(found, pl.DataFrame)
    return found.select(columns) if set(columns) <= set(found.columns) else None


def list_leaders(choice: Choice) -> list[Entry]:
    """List the chosen one, then the others of the group of the best, then the next best: all that may be taken."""
    ordered = [choice.chosen, *choice.group, *choice.allowed]
    return list({id(entry): entry for entry in ordered}.values())


def list_rivals(choice: Choice) -> list[Entry]:
    """List the leaders that differ from the chosen one in some query."""

    def read(entry: Entry) -> pl.Series:
        return entry.candidate.read(choice.task, entry.row)[choice.measure]

    own = read(choice.chosen)
    return [entry for entry in list_leaders(choice)[1:] if not read(entry).equals(own)]


def tell_slices(choice: Choice, material: Material) -> dict[str, Any]:
    """Tell how the chosen one and its rivals do on slices of the queries, for the page.

    Returns:
        `pairs`, each with its chart, rows and swaps in words, and `why` where there is nothing to tell.
    """
    chosen, rivals = choice.chosen, list_rivals(choice)[:RIVALS]
    task, _ = chosen.candidate.first.open_run(choice.task, chosen.row)
    slices = cut_slices(
        list(zip(task.query_ids, task.query_images, strict=True)), material.labels, _list_words(task, material.texts)
    )
    if not slices:
        why = "the workspace has no captions and labels of these queries (`dvc pull filter`), or all queries are alike"
        return {"pairs": [], "why": why, "tested": 0}
    if not rivals:
        return {"pairs": [], "why": "there is nobody to compare with", "tested": 0}
    pairs = [(Side(chosen.candidate, chosen.row), Side(one.candidate, one.row)) for one in rivals]
    found = compare_slices(pairs, choice.task, choice.measure, slices)
    told = []
    for pair, rival, contrasts in zip(pairs, rivals, found, strict=True):
        bounded = bound_contrasts(pair, choice.task, choice.measure, _select(contrasts))
        told.append(
            {
                "first": chosen.name,
                "second": rival.name,
                "rows": bounded,
                "left_out": len(contrasts) - len(bounded),
                "swaps": [say_swap(one, chosen.name, rival.name) for one in bounded if one.swaps],
                "chart": _draw(bounded, f"{rival.name} minus {chosen.name}"),
            }
        )
    tested = sum(one.tested for each in found for one in each)
    return {"pairs": told, "why": "", "tested": tested, "least": LEAST_CLUSTERS}


def _list_words(task: Task, texts: Mapping[str, str]) -> Mapping[str, str]:
    """What the queries say, by id; nothing where pictures ask."""
    if task.texts is not None:
        return dict(zip(task.query_ids, task.texts, strict=True))
    return texts if task.about.category.startswith("t") else {}


def _select(contrasts: Sequence[Contrast]) -> list[Contrast]:
    categories = [one for one in contrasts if one.of.kind == CATEGORY]
    count = max(CATEGORIES, sum(one.swaps for one in categories))
    kept = sorted(categories, key=lambda one: not one.swaps)[:count]
    return [*kept, *(one for one in contrasts if one.of.kind != CATEGORY)]


def say_swap(one: Contrast, first: str, second: str) -> str:
    """Say where which of two is better, and that the other one is elsewhere."""
    here, there = (second, first) if one.effect > 0 else (first, second)
    where = f"pictures with {one.of.name}" if one.of.kind == CATEGORY else f"queries of {one.of.name}"
    return (
        f"{where} ({one.queries:,} queries): {here} is better by {abs(one.effect):.3f}, on all others {there} by "
        f"{abs(one.elsewhere):.3f} ({'p < 0.001' if one.p_holm < 0.001 else f'p = {one.p_holm:.2g}'} by Holm)"
    )


def _draw(contrasts: Sequence[Contrast], title: str) -> Markup:
    bars = []
    for one in contrasts:
        low, high = (None, None) if one.interval is None else (one.interval.low, one.interval.high)
        bars.append(Bar(_shorten(one.of), REAL if one.swaps else NONE, one.effect, low, high))
    return charts.draw_effects(bars, title, CHART)


def _shorten(one: Slice) -> str:
    return one.name if len(one.name) <= 20 else f"{one.name[:19]}…"


def tell_disagreement(choice: Choice, material: Material) -> dict[str, Any] | None:
    """Tell the queries on which the chosen one and its first rival differ most, with what each found; for the page."""
    others = [entry for entry in choice.entries if entry is not choice.chosen]  # where no other may be taken
    ours, theirs = choice.chosen, next(iter([*list_rivals(choice), *others]), None)
    if theirs is None:
        return None
    table = find_most_changed(
        ours.candidate, theirs.candidate, choice.task, (ours.row, theirs.row), choice.measure, choice.queries
    )
    if not len(table):
        return None
    change = pl.col("change")
    shown = pl.concat([table.filter(change < 0).head(SHOWN), table.filter(change > 0).head(SHOWN)])
    examples, wanted = _open_examples(choice, (ours, theirs), shown, material)
    return {
        "first": ours.name,
        "second": theirs.name,
        "seeds": max(len(one.candidate.experiments) for one in (ours, theirs)),
        "queries": [_tell_query(row, choice.measure, material.texts) for row in table.head(CHANGED).to_dicts()],
        "examples": examples,
        "thumbnails": material.make_thumbnails(wanted),
    }


def _tell_query(row: Mapping[str, Any], measure: str, texts: Mapping[str, str]) -> dict[str, Any]:
    return {
        "words": name_query(row["query_id"], texts),
        "ours": row[measure],
        "theirs": row[f"{measure}_second"],
        "first_hit": row["first_hit"],
        "first_hit_second": row["first_hit_second"],
    }


def _open_examples(
    choice: Choice, both: tuple[Entry, Entry], shown: pl.DataFrame, material: Material
) -> tuple[list[dict[str, Any]], set[str]]:
    """The queries with the first items of both lists, and the pictures that this takes."""
    runs = [entry.candidate.first.open_run(choice.task, entry.row) for entry in both]
    task = runs[0][0]
    place_of = {query_id: place for place, query_id in enumerate(task.query_ids)}
    of_items = task.item_images or task.item_ids
    examples: list[dict[str, Any]] = []
    wanted: set[str] = set()
    for row in shown.to_dicts():
        place = place_of[row["query_id"]]
        lists = []
        for entry, (_, found) in zip(both, runs, strict=True):
            items = [
                {"picture": of_items[item], "hit": bool(gain > 0), "text": _say(task, item, material.texts)}
                for item, gain in zip(found.rows[place, :FOUND], found.gains[place, :FOUND], strict=True)
            ]
            first_hit = row["first_hit"] if entry is both[0] else row["first_hit_second"]
            lists.append({"name": entry.name, "first_hit": first_hit, "items": items})
            wanted |= {str(item["picture"]) for item in items}
        picture = task.query_images[place]
        wanted.add(picture)
        told = _tell_query(row, choice.measure, material.texts)
        examples.append(
            told | {"picture": picture, "labels": ", ".join(material.labels.get(picture, ())), "lists": lists}
        )
    return examples, wanted


def _say(task: Task, item: int, texts: Mapping[str, str]) -> str:
    """The words of an item, where texts are searched."""
    return texts.get(task.item_ids[item], "") if task.about.category.endswith("t") else ""
