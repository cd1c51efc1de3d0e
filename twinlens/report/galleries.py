"""Galleries: the best, the worst and typical queries of a run, with what they found."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from twinlens.config.params import ReportParams
from twinlens.core.shards import iter_pixels
from twinlens.evaluation.pool import Pool
from twinlens.images.thumbnails import make_thumbnail
from twinlens.retrieval.runs import read_run

KINDS = ("best", "typical", "worst")


@dataclass(frozen=True)
class GalleryPicture:
    """Record of one picture, besides its pixels."""

    image_id: str
    labels: str
    human: list[str]
    generated: str


@dataclass(frozen=True)
class FoundItem:
    """One item of a list."""

    rank: int
    score: float
    hit: bool
    picture: GalleryPicture
    text: str = ""  # of the caption, where captions are searched


@dataclass(frozen=True)
class Example:
    """One query and what it found."""

    query_id: str
    picture: GalleryPicture  # what it shows, or describes
    text: str  # of the caption, or the class, that is searched by; empty where the picture searches
    value: float
    first_hit: int
    relevant: int
    found: list[FoundItem]


@dataclass(frozen=True)
class Gallery:
    """The examples of one retriever on one task."""

    task: str
    retriever: str
    examples: dict[str, list[Example]] = field(default_factory=dict)

    @property
    def pictures(self) -> set[str]:
        """Ids of all pictures shown."""
        examples = [example for kind in self.examples.values() for example in kind]
        return {e.picture.image_id for e in examples} | {f.picture.image_id for e in examples for f in e.found}


@dataclass(frozen=True)
class Album:
    """Captions and labels of every picture of the pool, by image id; texts of captions, by caption id."""

    pictures: dict[str, GalleryPicture]
    texts: dict[str, str]
    image_of: dict[str, str]  # of a caption

    @classmethod
    def of(cls, images: pl.DataFrame, captions: pl.DataFrame, generated: pl.DataFrame) -> Album:
        """Gather tables IMAGES, CAPTIONS and GENERATED."""
        human: dict[str, list[str]] = {}
        for image_id, text in captions.select("image_id", "text").iter_rows():
            human.setdefault(image_id, []).append(text)
        machine = dict(generated.select("image_id", "text").iter_rows())
        pictures = {
            image_id: GalleryPicture(image_id, ", ".join(labels), human.get(image_id, []), machine.get(image_id, ""))
            for image_id, labels in images.select("image_id", "labels").iter_rows()
        }
        texts = dict(captions.select("caption_id", "text").iter_rows())
        return cls(pictures, texts, dict(captions.select("caption_id", "image_id").iter_rows()))

    def picture(self, key: str) -> GalleryPicture:
        """Look up a picture by its id or the id of one of its captions."""
        return self.pictures[self.image_of.get(key, key)]


def choose_examples(values: pl.DataFrame, measure: str, count: int) -> dict[str, list[int]]:
    """Choose the rows of the best, typical and worst queries.

    Best and worst are by the measure, then by the rank of the first hit; typical ones have the measure and
    the rank nearest to the median query's. Among equals the choice is by a digest of the id, so that it is
    neither always the first of the file nor another at every run.
    """
    middle = values[measure].median(), values["first_hit"].median()
    assert isinstance(middle[0], float)
    assert isinstance(middle[1], float)
    ranked = values.with_row_index("row").with_columns(
        lot=pl.Series([hashlib.md5(name.encode(), usedforsecurity=False).hexdigest() for name in values["query_id"]]),
        away=(pl.col(measure) - middle[0]).abs() + (pl.col("first_hit").log() - float(np.log(middle[1]))).abs() / 10,
    )
    orders = {
        "best": ranked.sort(measure, "first_hit", "lot", descending=[True, False, False]),
        "typical": ranked.sort("away", "lot"),
        "worst": ranked.sort(measure, "first_hit", "lot", descending=[False, True, False]),
    }
    return {kind: orders[kind]["row"].head(count).to_list() for kind in KINDS}


def make_gallery(
    pool: Pool, retriever: str, values: pl.DataFrame, album: Album, measure: str, params: ReportParams
) -> Gallery:
    """Make the gallery of one run; `values` are its queries' measures."""
    chosen = choose_examples(values, measure, params.queries)
    wanted = sorted({row for rows in chosen.values() for row in rows})
    queries, items = pool.queries["query_id"].to_list(), pool.items["item_id"].to_list()
    words = [text or album.texts.get(name, "") for name, text in pool.queries.select("query_id", "text").iter_rows()]
    lists: dict[int, list[FoundItem]] = {}
    for first, rows, scores in read_run(pool.folder / "runs" / f"{retriever}.parquet", queries, items):
        for row in (row for row in wanted if first <= row < first + len(rows)):
            top, of_top = rows[row - first, : params.found], scores[row - first, : params.found]
            hits = pool.task.qrels.gains(row, top[None])[0] > 0
            lists[row] = [
                FoundItem(n + 1, float(score), bool(hit), album.picture(items[item]), album.texts.get(items[item], ""))
                for n, (item, score, hit) in enumerate(zip(top, of_top, hits, strict=True))
            ]
    examples = {
        kind: [
            Example(
                queries[row],
                album.picture(values["image_id"][row]),
                words[row],
                float(values[measure][row]),
                int(values["first_hit"][row]),
                int(values["relevant"][row]),
                lists[row],
            )
            for row in rows
        ]
        for kind, rows in chosen.items()
    }
    return Gallery(pool.name, retriever, examples)


def make_thumbnails(image_ids: Iterable[str], groups: pl.DataFrame, shards: Path, side_px: int) -> dict[str, str]:
    """Make small JPEGs as data URIs, by image id."""
    wanted = groups.filter(pl.col("image_id").is_in(sorted(set(image_ids)))).sort("shard", "row")
    return {
        image_id: "data:image/jpeg;base64," + base64.b64encode(make_thumbnail(jpeg, side_px)).decode("ascii")
        for image_id, jpeg in iter_pixels(shards, wanted)
    }
