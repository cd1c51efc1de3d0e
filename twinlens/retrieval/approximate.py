"""Approximate (LanceDB) against exact nearest neighbours: recall missed, and time saved.

Measures of retrievers come from exact search; this says what a user of an index would lose beside it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int

from twinlens.config.params import ApproximateParams, IndexSetting
from twinlens.core.errors import require_extra
from twinlens.retrieval.compression import RABITQ_BITS, RABITQ_MULTIPLE
from twinlens.retrieval.exact import find_nearest
from twinlens.retrieval.scores import compute_exact_scores

if TYPE_CHECKING:
    from lancedb.table import Table

INDEXES = {  # LanceDB's names
    "ivf_flat": "IvfFlat",
    "ivf_sq": "IvfSq",
    "ivf_pq": "IvfPq",
    "ivf_rq": "IvfRq",
    "ivf_hnsw_sq": "HnswSq",
}
LEAST = 256  # items: what the training of quantised indexes asks for
WARM_UP = 3  # queries before the clock runs
COLUMNS = ("setting", "recall", "ms_per_query", "build_s", "index_mb")

Rows = Float32[np.ndarray, "rows dim"]
Search = Callable[[Float32[np.ndarray, " dim"]], Int[np.ndarray, " k"]]


def measure_settings(queries: Rows, items: Rows, params: ApproximateParams) -> list[dict[str, Any]]:
    """Measure each setting, one row each: recall of the true `k` best, median milliseconds of one query, index price.

    The first two rows are exact: a product by numpy with everything in memory, and LanceDB without an
    index. An item counts as found if it scores at least as much as the k-th best, so that equal
    scores count alike. Queries come one after the other, as from one person.

    Args:
        queries: unit vectors, of which `params.queries`, evenly spread, are asked.
        items: unit vectors; `params.settings` are left out where there are fewer than 256, and those of `ivf_rq`
            where the dimensions are no multiple of 8.
        params: what is asked, and of which indexes.

    Raises:
        ExtraError: LanceDB is not installed.
    """
    with require_extra("ann", "the stage `approximate`"):
        import lancedb
    chosen = np.unique(np.linspace(0, len(queries) - 1, min(params.queries, len(queries))).astype(int))
    asked, items = np.ascontiguousarray(queries[chosen]), np.ascontiguousarray(items)
    k = min(params.k, len(items))
    worst = np.concatenate([found.scores[:, -1] for found in find_nearest(asked, items, k)])  # of the true k best

    def row(name: str, search: Search, build_s: float = 0.0, index_bytes: int = 0) -> dict[str, Any]:
        found, milliseconds = _timed(search, asked)
        good = sum(
            int((compute_exact_scores(asked[q : q + 1], items, rows[None]) >= worst[q]).sum())
            for q, rows in enumerate(found)
        )
        figures = (good / (k * len(asked)), milliseconds, build_s, index_bytes / 1e6)
        return {"setting": name} | dict(zip(COLUMNS[1:], (round(figure, 4) for figure in figures), strict=True))

    with tempfile.TemporaryDirectory() as folder:
        connection = lancedb.connect(folder)
        dim = items.shape[1]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(items.ravel()), dim)
        table = connection.create_table("items", pa.table({"row": pa.array(np.arange(len(items))), "vector": vectors}))
        rows = [row("exact, numpy", partial(_by_numpy, items=items, k=k))]
        rows.append(row("exact, LanceDB", partial(_by_lance, table, k=k, setting=None)))
        for names in _of_one_index(_list_possible(params.settings, *items.shape)):
            first = params.settings[names[0]]
            started = time.perf_counter()
            table.create_index("vector", config=_config(first), replace=True)
            build_s = time.perf_counter() - started
            size = sum(index.size_bytes or 0 for index in table.list_indices())
            for name in names:
                setting = params.settings[name]
                rows.append(row(name, partial(_by_lance, table, k=k, setting=setting), build_s, size))
    return rows


def _list_possible(settings: Mapping[str, IndexSetting], items: int, dim: int) -> dict[str, IndexSetting]:
    """The settings that LanceDB can build for so many items of so many dimensions."""
    if items < LEAST:
        return {}
    return {
        name: setting for name, setting in settings.items() if setting.index != "ivf_rq" or dim % RABITQ_MULTIPLE == 0
    }


def _of_one_index(settings: Mapping[str, IndexSetting]) -> list[list[str]]:
    """Names of settings that search the same index in different ways, together."""
    together: dict[tuple[str, int], list[str]] = {}
    for name, setting in settings.items():
        together.setdefault((setting.index, setting.partitions), []).append(name)
    return list(together.values())


def _config(setting: IndexSetting) -> Any:
    from lancedb import index

    bits = {"num_bits": RABITQ_BITS} if setting.index == "ivf_rq" else {}  # as the search index has them
    return getattr(index, INDEXES[setting.index])(distance_type="dot", num_partitions=setting.partitions, **bits)


def _by_numpy(query: Float32[np.ndarray, " dim"], items: Rows, k: int) -> Int[np.ndarray, " k"]:
    scores = items @ query
    best = np.argpartition(scores, len(scores) - k)[len(scores) - k :]
    return best[np.argsort(-scores[best])]


def _by_lance(
    table: Table, query: Float32[np.ndarray, " dim"], k: int, setting: IndexSetting | None
) -> Int[np.ndarray, " k"]:
    search: Any = table.search(query, vector_column_name="vector")  # of a vector, which its type does not say
    search = search.distance_type("dot").select(["row", "_distance"]).limit(k)
    if setting is None:
        search = search.bypass_vector_index()
    else:
        search = search.nprobes(setting.nprobes)
        search = search if setting.ef is None else search.ef(setting.ef)
        search = search if setting.refine is None else search.refine_factor(setting.refine)
    return search.to_arrow()["row"].to_numpy()


def _timed(search: Search, asked: Rows) -> tuple[list[Int[np.ndarray, " k"]], float]:
    for query in asked[:WARM_UP]:
        search(query)
    found, seconds = [], []
    for query in asked:
        started = time.perf_counter()
        found.append(search(query))
        seconds.append(time.perf_counter() - started)
    return found, 1000.0 * statistics.median(seconds)
