"""The retrieval tasks, and which retrievers a set of vectors allows.

A task is queries, items and a relevance rule, and the rule is always equality of a group: the
object set, or the picture itself. A retriever is one way to represent what is searched, named by
what a picture is fed as: its pixels (`image`), its captions, or both. So every row of a result
answers "which model, fed with what".

| task | queries | items | retrievers |
|---|---|---|---|
| `object_sets` | pictures that share their object set | the same, but for the query | all |
| `caption_to_image` | every human caption | every picture | those without human captions |
| `image_to_caption` | every picture | every human caption | those without human captions |

In the last two a picture stands for itself by its pixels (needs a joint model), by its generated
caption, or by both; its human captions are the other side. `image_untrained` is a trained model as it
was before. Heads that were trained by distances are ranked by them too, in tasks of their own.
Retrievers by words are in `word_search`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import polars as pl
from jaxtyping import Float32, Int

from twinlens.config.params import RankParams
from twinlens.distances import as_inner_products
from twinlens.errors import DataError
from twinlens.fusion import concatenate
from twinlens.sources import CAPTIONS, GENERATED, IMAGES, JOINED, OTHER_WAY, UNTRAINED
from twinlens.tables import AS_PUBLISHED

Rows = Float32[np.ndarray, "rows dim"]
Pair = tuple[Rows, Rows]  # vectors of the queries and of the items


class Scorer(Protocol):
    """Scores that are no inner products of vectors: by words, or fused."""

    def __len__(self) -> int:
        """How many queries there are."""
        ...

    def block(self, start: int, stop: int) -> Float32[np.ndarray, "queries items"]:
        """Scores of the queries from `start` to before `stop` with all items."""
        ...


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of one source, in the order of their ids."""

    ids: list[str]
    image_ids: list[str]  # the picture each one is of
    rows: Rows
    lengths: Float32[np.ndarray, " rows"] | None = None  # before unit length, where those mattered in training


@dataclass(frozen=True)
class Task:
    """Who searches what; `retrievers` make their vectors or scores only when called."""

    name: str
    query_ids: list[str]
    query_images: list[str]  # the picture that each query is, describes or begins with
    query_groups: Int[np.ndarray, " queries"]
    item_ids: list[str]
    item_groups: Int[np.ndarray, " items"]
    group_names: list[str]
    own_rows: Int[np.ndarray, " queries"] | None  # the item that is the query itself
    retrievers: dict[str, Callable[[], Pair | Scorer]] = field(default_factory=dict)
    partners: Int[np.ndarray, " queries"] | None = None  # the item that each query is ranked with in a small batch
    full_ranking: bool = False  # whether average precision over the whole pool is asked for
    about: dict[str, int] = field(default_factory=dict)  # more to tell of the pool than its size

    def pair(self, retriever: str) -> Pair:
        """The vectors of a retriever that makes vectors."""
        made = self.retrievers[retriever]()
        assert isinstance(made, tuple), f"{retriever} makes scores"
        return made

    def relevant_counts(self) -> Int[np.ndarray, " queries"]:
        """R of every query: items of its group, itself left out."""
        counts = np.bincount(self.item_groups, minlength=len(self.group_names))[self.query_groups]
        return counts if self.own_rows is None else counts - (self.own_rows >= 0)


def build(sources: dict[str, Vectors], groups: pl.DataFrame, params: RankParams, joint: bool) -> list[Task]:
    """The tasks, each with the retrievers that `sources` allow.

    Args:
        sources: by name, out of IMAGES, CAPTIONS, JOINED and GENERATED.
        groups: table GROUPS; the pool's pictures in the order of `sources[IMAGES]`.
        params: the weight of pixels beside words, and the seed of the random caption.
        joint: whether pixels and words share one space.

    Raises:
        DataError: the ids of a source are not those of the pool.
    """
    pool = groups.filter("in_pool")
    pool_ids = pool["image_id"].to_list()
    for name in (IMAGES, GENERATED):
        if name in sources and sources[name].ids != pool_ids:
            raise DataError(f"{name}: the vectors' ids are not the pool's pictures: `dvc repro -f embed`")
    built = [_object_sets(sources, pool, params)]
    if CAPTIONS in sources:
        built += _caption_tasks(sources, pool_ids, params, joint)
    return [task for task in built if task.retrievers and task.query_ids]


def _object_sets(sources: dict[str, Vectors], pool: pl.DataFrame, params: RankParams) -> Task:
    chosen = np.flatnonzero(pool["object_set"].is_not_null().to_numpy())
    ids = pool["image_id"].gather(chosen).to_list()
    names, codes = np.unique(pool["object_set"].gather(chosen).to_numpy().astype(str), return_inverse=True)
    task = Task(
        "object_sets",
        query_ids=ids,
        query_images=ids,
        query_groups=codes,
        item_ids=ids,
        item_groups=codes,
        group_names=names.tolist(),
        own_rows=np.arange(len(ids)),
    )

    words: dict[str, Callable[[], Rows]] = {}
    if CAPTIONS in sources:
        words["captions_joined"] = lambda: _rows_of(sources[JOINED], ids)
        words["caption_random"] = lambda: _one_caption(sources[CAPTIONS], ids, params.seed)
    if GENERATED in sources:
        words["caption_generated"] = lambda: _rows_of(sources[GENERATED], ids)
    if IMAGES in sources:
        task.retrievers["image"] = _by_themselves(lambda: _rows_of(sources[IMAGES], ids))
    task.retrievers.update({name: _by_themselves(make) for name, make in words.items()})
    if IMAGES in sources:
        for name in sorted(words.keys() - {"caption_random"}):
            task.retrievers[f"image_and_{name}"] = _with_pixels(sources[IMAGES], words[name], ids, params.image_weight)
    return task


def _by_themselves(make: Callable[[], Rows]) -> Callable[[], Pair]:
    def pair() -> Pair:
        rows = make()
        return rows, rows

    return pair


def _with_pixels(images: Vectors, words: Callable[[], Rows], ids: list[str], image_weight: float) -> Callable[[], Pair]:
    return _by_themselves(lambda: concatenate(_rows_of(images, ids), words(), image_weight))


def _rows_of(source: Vectors, ids: list[str]) -> Rows:
    row_of = {own: row for row, own in enumerate(source.ids)}
    return np.asarray(source.rows[[row_of[image_id] for image_id in ids]])


def _one_caption(source: Vectors, ids: list[str], seed: int) -> Rows:
    return np.asarray(source.rows[one_caption_each(source.image_ids, ids, seed)])


def _caption_tasks(sources: dict[str, Vectors], pool_ids: list[str], params: RankParams, joint: bool) -> list[Task]:
    captions = sources[CAPTIONS]
    caption_groups = _codes(captions.image_ids, pool_ids)
    # A picture without a caption can be found, but cannot search.
    described, first = np.unique(caption_groups, return_index=True)
    described_ids = [pool_ids[code] for code in described]
    there = caption_to_image(captions.ids, captions.image_ids, pool_ids)
    there.retrievers.update(_caption_pairs(sources, params.image_weight, joint))
    back = Task(
        "image_to_caption",
        query_ids=described_ids,
        query_images=described_ids,
        query_groups=described,
        item_ids=captions.ids,
        item_groups=caption_groups,
        group_names=pool_ids,
        own_rows=None,
        retrievers={
            name: _turned(pair, described)
            for name, pair in _caption_pairs(sources, params.image_weight, joint, OTHER_WAY).items()
        },
        partners=first,
    )
    if not joint or sources[IMAGES].lengths is None:
        return [there, back]
    # Heads that were trained by distance, as their source compared them; ranks within batches stay those by cosine.
    before = {f"image{UNTRAINED}": UNTRAINED} if CAPTIONS + UNTRAINED in sources else {}

    def published(task: Task, way: str, turn: Callable[[Callable[[], Pair]], Callable[[], Pair]]) -> Task:
        retrievers: dict[str, Callable[[], Pair | Scorer]] = {
            name: _by_distance(turn(_whole_length(sources, suffix)))
            for name, suffix in ({"image": way} | before).items()
        }
        return replace(task, name=task.name + AS_PUBLISHED, retrievers=retrievers, partners=None)

    return [
        there,
        back,
        published(there, "", lambda pair: pair),
        published(back, OTHER_WAY, lambda pair: _turned(pair, described)),
    ]


def _caption_pairs(
    sources: dict[str, Vectors], image_weight: float, joint: bool, way: str = ""
) -> dict[str, Callable[[], Pair]]:
    """By retriever, vectors of the captions and of the pictures; of the heads for one `way` where it has its own."""

    def rows(name: str) -> Rows:
        return np.asarray(sources[name + way if name + way in sources else name].rows)

    pairs: dict[str, Callable[[], Pair]] = {}
    if joint:
        pairs["image"] = lambda: (rows(CAPTIONS), rows(IMAGES))
    if joint and CAPTIONS + UNTRAINED in sources:
        pairs[f"image{UNTRAINED}"] = lambda: (rows(CAPTIONS + UNTRAINED), rows(IMAGES + UNTRAINED))
    if GENERATED in sources:
        pairs["caption_generated"] = lambda: (rows(CAPTIONS), rows(GENERATED))
    if joint and GENERATED in sources:
        pairs["image_and_caption_generated"] = lambda: (
            concatenate(rows(CAPTIONS), rows(CAPTIONS), image_weight),
            concatenate(rows(IMAGES), rows(GENERATED), image_weight),
        )
    return pairs


def _by_distance(pair: Callable[[], Pair]) -> Callable[[], Pair]:
    return lambda: as_inner_products(*pair())


def _whole_length(sources: dict[str, Vectors], way: str = "") -> Callable[[], Pair]:
    """Vectors of the captions and of the pictures, as long as the heads made them."""

    def pair() -> Pair:
        found = [sources[name + way if name + way in sources else name] for name in (CAPTIONS, IMAGES)]
        captions, pictures = (np.asarray(own.rows) * np.asarray(own.lengths)[:, None] for own in found)
        return captions, pictures

    return pair


def _turned(pair: Callable[[], Pair], described: Int[np.ndarray, " described"]) -> Callable[[], Pair]:
    def other_way() -> Pair:
        of_captions, pictures = pair()
        return pictures[described], of_captions

    return other_way


def caption_to_image(caption_ids: Iterable[str], image_ids: Iterable[str], pool_ids: list[str]) -> Task:
    """The task of that name, without retrievers.

    Args:
        caption_ids: the queries.
        image_ids: the picture that each describes.
        pool_ids: the items.
    """
    described = list(image_ids)
    return Task(
        "caption_to_image",
        query_ids=list(caption_ids),
        query_images=described,
        query_groups=_codes(described, pool_ids),
        item_ids=pool_ids,
        item_groups=np.arange(len(pool_ids)),
        group_names=pool_ids,
        own_rows=None,
    )


def _codes(image_ids: Iterable[str], pool_ids: list[str]) -> Int[np.ndarray, " ids"]:
    code_of = {image_id: code for code, image_id in enumerate(pool_ids)}
    return np.array([code_of[image_id] for image_id in image_ids])


def one_caption_each(image_ids: list[str], wanted: list[str], seed: int) -> Int[np.ndarray, " wanted"]:
    """The row of one caption of each wanted picture, drawn evenly and by seed.

    Args:
        image_ids: the picture of each caption row; a picture's captions stand together.
        wanted: pictures, each of which has a caption.
        seed: of the draw; the draw of a picture does not depend on which others are wanted.
    """
    first: dict[str, int] = {}
    count: dict[str, int] = {}
    for row, image_id in enumerate(image_ids):
        first.setdefault(image_id, row)
        count[image_id] = count.get(image_id, 0) + 1
    share = dict(zip(first, np.random.default_rng(seed).random(len(first)), strict=True))
    return np.array([first[i] + int(share[i] * count[i]) for i in wanted])
