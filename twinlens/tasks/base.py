"""A task: queries, items, and which item is relevant to which query, as data that later stages read.

Nothing here knows a model. What a query is made of (a text, a picture, or both) are rows of the *inputs* that `embed`
turns into vectors: `query_text` and `query_picture` name the inputs that hold the queries' texts (by query id) and
their pictures (by picture id), `item_text` and `item_picture` the same of the items.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Int

from twinlens.core import tables
from twinlens.core.absence import advise
from twinlens.core.errors import DataError, remake
from twinlens.core.id_rows import IdRows
from twinlens.tasks.qrels import Groups, Pairs, Qrels

Category = Literal[
    "i2i", "t2i", "i2t", "t2t", "it2i"
]  # from what to what: i, an image; t, a text; both is both at once
FILE = "task.json"


@dataclass(frozen=True)
class TaskMetadata:
    """Meaning of a task's numbers: the content of `task.json`, which is all that later stages know of a task."""

    title: str
    category: Category
    place: int  # among the tasks, wherever they are told one after another
    cluster_by: Literal["image_id", "group"] = "image_id"  # queries that share it are not independent
    macro: bool = False  # whether means over groups are told beside those over queries
    full_ranking: bool = False  # whether average precision over the whole pool is asked for
    published_of: str | None = None  # the task whose source's own protocol this repeats
    published: Literal["object_sets", "labels", "classes"] | None = None  # which of the sources' measures apply
    query_text: str | None = None
    query_picture: str | None = None
    item_text: str | None = None
    item_picture: str | None = None
    counts: dict[str, int] = field(default_factory=dict)  # more to tell of the pool than its size
    texts_digest: str | None = None  # of what queries or items say; None: they are no texts


@dataclass(frozen=True)
class Task:
    """A retrieval task: queries, items and relevance judgements."""

    name: str
    about: TaskMetadata
    query_ids: list[str]
    query_images: list[str]  # the picture that each query is, describes or begins with
    item_ids: list[str]
    qrels: Qrels
    exclude: Int[np.ndarray, " queries"] | None = None  # the item that each query must not find; -1: none
    group_names: list[str] | None = None  # of `Groups`
    partners: Int[np.ndarray, " queries"] | None = None  # the item that each query is ranked with in a small batch
    shown: list[list[str]] | None = None  # the pictures that each query shows, where they are several
    texts: list[str] | None = None  # what each query says, where it is no caption
    item_images: list[str] | None = None  # the picture that each item describes; None: items are pictures

    def __post_init__(self) -> None:
        """Refuse a query that must not find what is right for it; of groups, the item counts as wrong instead."""
        if self.exclude is None or not isinstance(self.qrels, Pairs):
            return
        gains = self.qrels.gains(0, np.maximum(self.exclude, 0)[:, None])[:, 0]
        if (both := np.flatnonzero((gains > 0) & (self.exclude >= 0))).size:
            raise DataError(
                f"{self.name}: {both.size} queries must not find an item that is right for them, the first is "
                f"'{self.query_ids[both[0]]}': leave the pair out of the judgements"
            )

    def write(self, folder: Path) -> None:
        """Write the task's tables and `task.json`."""
        groups = self.qrels if isinstance(self.qrels, Groups) else None
        names = np.array(self.group_names or [], dtype=object)
        queries: dict[str, Any] = {
            "query_id": self.query_ids,
            "image_id": self.query_images,
            "text": self.texts,
            "group": names[groups.query_groups].tolist() if groups else [None] * len(self.query_ids),
            "relevant": self.qrels.counts(),
            "exclude": None if self.exclude is None else [self.item_ids[r] if r >= 0 else None for r in self.exclude],
            "partner": None if self.partners is None else [self.item_ids[row] for row in self.partners],
            "shown": self.shown,
        }
        items = {
            "item_id": self.item_ids,
            "image_id": self.item_images or self.item_ids,
            "group": names[groups.item_groups].tolist() if groups else [None] * len(self.item_ids),
        }
        tables.write_table(_frame(queries), folder / "queries.parquet", tables.QUERIES)
        tables.write_table(_frame(items), folder / "items.parquet", tables.ITEMS)
        if groups is None:
            pairs = self.qrels.pairs(0, len(self.query_ids))
            named = {
                "query_id": [self.query_ids[row] for row in pairs["query"]],
                "item_id": [self.item_ids[row] for row in pairs["item"]],
                "gain": pairs["gain"],
            }
            tables.write_table(pl.DataFrame(named), folder / "qrels.parquet", tables.QRELS)
        (folder / FILE).write_text(json.dumps(asdict(self.about), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Task:
        """Read what `write` wrote.

        Raises:
            DataError: a file is not there, or the tables do not belong together.
        """
        about = read_about(folder)
        queries = tables.read_table(folder / "queries.parquet", tables.QUERIES)
        items = tables.read_table(folder / "items.parquet", tables.ITEMS)
        query_ids, item_ids = queries["query_id"].to_list(), items["item_id"].to_list()

        def rows(column: str) -> Int[np.ndarray, " queries"] | None:
            named = queries[column]
            if not named.is_not_null().any():
                return None
            there = named.is_not_null().to_numpy()
            found = np.full(len(named), -1)
            found[there] = IdRows.of([items["item_id"]]).find(named.drop_nulls())
            if (strange := np.flatnonzero(there & (found < 0))).size:
                raise DataError(
                    f"{folder / 'queries.parquet'}: {column} '{named[int(strange[0])]}' is not one of the task's "
                    f"{len(item_ids):,} items: {remake('tasks')}"
                )
            return found

        exclude = rows("exclude")
        qrels: Qrels
        if queries["group"].null_count():
            table = tables.read_table(folder / "qrels.parquet", tables.QRELS)
            qrels, names = Pairs.of(table, query_ids, item_ids), None
        else:
            groups = pl.concat([queries["group"], items["group"]])
            firsts, codes = np.unique(IdRows.of([groups]).find_firsts(), return_inverse=True)
            names = groups.gather(firsts).to_list()
            qrels = Groups(codes[: len(queries)], codes[len(queries) :], exclude)
        if (qrels.counts() != queries["relevant"].to_numpy()).any():
            raise DataError(
                f"{folder / 'queries.parquet'}: the queries' counts of relevant items are not those of the judgements: "
                f"{remake('tasks')}"
            )
        return cls(
            folder.name,
            about,
            query_ids,
            queries["image_id"].to_list(),
            item_ids,
            qrels,
            exclude,
            names,
            rows("partner"),
            _list_or_none(queries["shown"]),
            _list_or_none(queries["text"]),
            None if items["image_id"].equals(items["item_id"]) else items["image_id"].to_list(),
        )


def _list_or_none(column: pl.Series) -> list[Any] | None:
    return column.to_list() if column.is_not_null().any() else None


def read_about(folder: Path) -> TaskMetadata:
    """Read the content of a task's `task.json`.

    Raises:
        DataError: it is not there.
    """
    try:
        return TaskMetadata(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        remedy = advise("`dvc repro` makes it, `dvc pull` fetches it")
        raise DataError(f"{folder / FILE} is not here: {remedy}") from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{folder / FILE} is damaged ({str(error)[:120]}): {remake('tasks')}") from None


def _frame(columns: dict[str, Any]) -> pl.DataFrame:
    """A table in which a column that is None is null throughout."""
    rows = len(next(iter(columns.values())))
    return pl.DataFrame({name: [None] * rows if values is None else values for name, values in columns.items()})


def task_folders(folder: Path) -> list[Path]:
    """List the folders of tasks in a folder, by name."""
    return sorted(path.parent for path in folder.glob(f"*/{FILE}"))


def read_tasks(folder: Path) -> list[Task]:
    """Read the tasks in the folder of the `tasks` stage, in the order in which they are told.

    Raises:
        DataError: there are none, or one is damaged.
    """
    tasks = [Task.read(path) for path in task_folders(folder)]
    if not tasks:
        raise DataError(
            f"{folder} holds no task: {advise('`dvc repro tasks` makes them, `dvc pull tasks` fetches them')}"
        )
    return sorted(tasks, key=lambda task: (task.about.place, task.name))
