"""Error analysis: the kind of wrong first item of every query that has one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from twinlens.evaluation.pool import Pool
from twinlens.report.galleries import Album, GalleryPicture
from twinlens.retrieval.runs import read_run
from twinlens.tasks.inputs import GENERATED as GENERATED_TEXTS

NEAR = 0.05  # of the range of a list's scores, whatever their scale: closer to the first item's is nearly equal
HUB = 5  # times

SAME_SETS = "shows exactly the same kinds of objects"
SHARED_SETS = "shows some of the same kinds of objects"
OTHER_SETS = "shows none of them"
DISTRACTOR = "is a distractor: no query is about it"
EXACT_COPY = "shows or describes an exact copy of a right picture"
NEAR_COPY = "shows or describes a near copy of a right picture"
GENERIC = "was found by, or is, a caption that also stands under another picture"
GENERIC_GENERATED = "is known by a generated caption that another picture has too"
HUBS = f"is wrongly first for at least {HUB} queries, {HUB} times its share"
CLOSE = f"has a relevant item close behind: within {NEAR:.0%} of the range of its list's scores".replace("%", "\u00a0%")
TIED = "stands in a list that ties across the cut"
CAUSES = (
    SAME_SETS,
    SHARED_SETS,
    OTHER_SETS,
    DISTRACTOR,
    EXACT_COPY,
    NEAR_COPY,
    GENERIC,
    GENERIC_GENERATED,
    HUBS,
    CLOSE,
    TIED,
)


@dataclass(frozen=True)
class Copies:
    """Sets of copies by number, of those pictures that have copies; near ones hold the exact ones."""

    exact: dict[str, int] = field(default_factory=dict)
    near: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, duplicates: pl.DataFrame) -> Copies:
        """Gather table DUPLICATES; copies of one picture are copies of each other."""
        pairs = duplicates.select("image_id", "other_id").rows()
        same = duplicates.filter(pl.col("kind") == "exact").select("image_id", "other_id").rows()
        return cls(_linked(same), _linked(pairs))

    def find_copy_kinds(self, image_id: str, right: Sequence[str]) -> tuple[bool, bool]:
        """Tell whether a picture is an exact copy of one of those that are right, and whether a near one."""
        sets = (self.exact, self.near)
        exact, near = (image_id in of and of[image_id] in {of.get(other) for other in right} for of in sets)
        return exact, near


@dataclass(frozen=True)
class Mistakes:
    """Counts over one run; a wrong query may count under several causes."""

    task: str
    retriever: str
    queries: int
    wrong: int  # the first item is not relevant
    causes: dict[str, int]


def count_mistakes(
    pool: Pool, retriever: str, values: pl.DataFrame, album: Album, copies: Copies, parts: Mapping[str, str]
) -> Mistakes:
    """Count the wrong first items of a run by cause.

    Args:
        pool: of the task.
        retriever: whose run.
        values: measures of its queries, with `tied`.
        album: captions and labels.
        copies: among the dataset's pictures.
        parts: by image id, the part of the dataset that a picture comes from; empty where it has but one.
    """
    first, close = _first_items(pool, retriever)
    qrels = pool.task.qrels
    wrong = np.flatnonzero(qrels.gains(0, first[:, None])[:, 0] == 0)
    queries, items = pool.queries["query_id"].to_list(), pool.items["item_id"].to_list()
    own = pool.queries["image_id"].to_list()
    image_ids = [album.picture(item).image_id for item in items]
    judged, generated = qrels.judged(), GENERATED_TEXTS in pool.told(retriever)["inputs"]
    texts, machine = _texts_of_several(album, image_ids), _generated_for_several(album, image_ids)
    hubs = _hubs(first[wrong], len(items))
    tied = values["tied"].to_numpy()
    causes: Counter[str] = Counter()
    for row in wrong:
        item = int(first[row])
        asked, got = album.pictures[own[row]], album.pictures[image_ids[item]]
        exact = near = False
        if got.image_id in copies.near:
            right = [own[row], *(image_ids[other] for other in qrels.relevant_rows(int(row)))]
            exact, near = copies.find_copy_kinds(got.image_id, right)
        causes.update(_kinds(asked, got))
        true = {
            DISTRACTOR: not judged[item],
            EXACT_COPY: exact,
            NEAR_COPY: near and not exact,
            GENERIC: album.texts.get(queries[row]) in texts or album.texts.get(items[item]) in texts,
            GENERIC_GENERATED: generated and got.generated in machine,
            HUBS: item in hubs,
            CLOSE: bool(close[row]),
            TIED: bool(tied[row]),
        }
        causes.update(cause for cause, holds in true.items() if holds)
        if got.image_id in parts:
            causes[name_part_cause(parts[got.image_id])] += 1
    return Mistakes(pool.name, retriever, len(queries), len(wrong), dict(causes))


def name_part_cause(part: str) -> str:
    """Name the cause that a part of a composed dataset is."""
    return f"comes from the part {part}"


def list_causes(runs: Sequence[Mistakes], parts: Mapping[str, str]) -> list[str]:
    """List the causes that any of these runs has, in their order, parts after distractors."""
    named = [name_part_cause(part) for part in sorted(set(parts.values()))]
    place = CAUSES.index(DISTRACTOR) + 1
    return [c for c in (*CAUSES[:place], *named, *CAUSES[place:]) if any(run.causes.get(c) for run in runs)]


def _kinds(asked: GalleryPicture, got: GalleryPicture) -> list[str]:
    """Compare both pictures' labels; nothing is said of pictures without labels."""
    wanted, shown = ({name for name in picture.labels.split(", ") if name} for picture in (asked, got))
    if not wanted or not shown:
        return []
    return [SAME_SETS if wanted == shown else SHARED_SETS if wanted & shown else OTHER_SETS]


def _first_items(pool: Pool, retriever: str) -> tuple[Int[np.ndarray, " queries"], Bool[np.ndarray, " queries"]]:
    """The first item of every query, and whether a relevant one stands close behind it."""
    queries, items = pool.queries["query_id"].to_list(), pool.items["item_id"].to_list()
    firsts, close = [], []
    for start, rows, scores in read_run(pool.folder / "runs" / f"{retriever}.parquet", queries, items):
        relevant = pool.task.qrels.gains(start, rows) > 0
        firsts.append(rows[:, 0])
        found = pool.found(retriever, scores)
        lowest = np.where(found, scores, scores[:, :1]).min(axis=1, keepdims=True)
        close.append((relevant & found & (scores >= scores[:, :1] - NEAR * (scores[:, :1] - lowest))).any(axis=1))
    return np.concatenate(firsts), np.concatenate(close)


def _hubs(first: Int[np.ndarray, " wrong"], items: int) -> set[int]:
    """Items that stand wrongly first far more often than if such places were spread evenly."""
    found, times = np.unique(first, return_counts=True)
    return set(found[(times >= HUB) & (times >= HUB * len(first) / items)].tolist())


def _texts_of_several(album: Album, image_ids: list[str]) -> set[str | None]:
    """Human captions that stand under more than one picture of the pool: generic ones."""
    pool, images = set(image_ids), dict[str | None, set[str]]()
    for caption_id, text in album.texts.items():
        if album.image_of[caption_id] in pool:
            images.setdefault(text, set()).add(album.image_of[caption_id])
    return {text for text, of in images.items() if len(of) > 1}


def _generated_for_several(album: Album, image_ids: list[str]) -> set[str]:
    counts = Counter(album.pictures[image_id].generated for image_id in set(image_ids))
    return {text for text, count in counts.items() if text and count > 1}


def _linked(pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Numbers by which two ids are the same where pairs link them, directly or not."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for a, b in pairs:
        parent[root(a)] = root(b)
    numbers: dict[str, int] = {}
    return {name: numbers.setdefault(root(name), len(numbers)) for name in list(parent)}
