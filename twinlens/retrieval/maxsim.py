"""MaxSim: late interaction of token vectors. Each token of a query takes its best token of an item.

    score(query, item) = sum over tokens q of the query of max over tokens d of the item of q . d

(Khattab and Zaharia 2020, ColBERT, section 3.2). `image_tokens` searches the whole pool so; `image_maxsim` scores the
best of the run `image` anew, which searched by one vector for an input, the mean of its token vectors.

The score is defined without error, as those of single vectors are (`scores`). Token vectors are float16 of unit length:
their products and sums are multiples of 2^-48 below 2, so that a sum in float64 has no error in whatever order it is
made. The best products of a query's tokens are added as whole numbers of 2^-48, and the sum is rounded to float64 and
that to float32. Equal scores are ordered by item row. A product in float32 finds the items that could be among the best
of a query whatever its error did, and those are scored so: what a run lists is the same on every device. All others lie
below, with the scores of the float32 product, which differ from the exact ones by at most `bound_error`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float16, Float32, Float64, Int, Int64

from twinlens.config.params import Params
from twinlens.core.device import choose_device
from twinlens.core.token_matrices import UNIT, TokenMatrices
from twinlens.retrieval.base import Corpus, Retriever, costs_of
from twinlens.retrieval.scores import Block
from twinlens.retrieval.selection import NARROW, full_float32
from twinlens.tasks.base import Task
from twinlens.tasks.inputs import GENERATED, IMAGES, OTHER_WAY

BLOCK_BYTES = 2**28  # of everything that is in memory at one time for a block of queries, but their scores
IN_CACHE, SHARED = 2**21, 2**25  # of the products among it: of one core, and where several wait for each other
STEP = 512  # query tokens of one product, at most
FIXED_POINT = 2.0**48
PADDING = 1.25  # how much longer the longest item of a block may be than its shortest

Matrix = Float16[np.ndarray, "tokens dim"]


def retrievers(task: Task, corpus: Corpus, params: Params) -> list[Retriever]:
    """List the retrievers by token vectors: pictures and their generated captions, by texts and the other way."""
    return [
        Retriever(f"{name}_tokens", partial(MaxSim, *sides, params.rank.depth + 1, device), (fed,), costs_of((fed,)))
        for name, fed, sides, device in _list_sides(task, corpus, params)
    ]


def rerankers(task: Task, corpus: Corpus, params: Params) -> list[MaxSimReranker]:
    """List the rerankers of what one vector for an input has found."""
    return [MaxSimReranker(*sides, name, fed, device) for name, fed, sides, device in _list_sides(task, corpus, params)]


def _list_sides(
    task: Task, corpus: Corpus, params: Params
) -> Iterator[tuple[str, str, tuple[TokenMatrices, TokenMatrices], str]]:
    """Retrievers of single vectors that have token vectors too: what asks, what is searched, and where."""
    about, turned = task.about, task.about.category == "i2t"
    text = about.item_text if turned else about.query_text
    if about.category not in ("t2i", "i2t") or text is None or not corpus.tokens:
        return
    device = str(choose_device(params.compute.device).device)
    if device.partition(":")[0] in NARROW:
        device = "cpu"

    def take(name: str, ids: list[str]) -> TokenMatrices:
        own = name + OTHER_WAY if turned and name + OTHER_WAY in corpus.tokens else name
        row_of = {known: row for row, known in enumerate(corpus.vectors[own].ids)}
        return corpus.tokens[own].select(np.array([row_of[one] for one in ids], dtype=np.int64))

    for name, fed in (("image", IMAGES), ("caption_generated", GENERATED)):
        if text in corpus.tokens and fed in corpus.tokens and (corpus.joint or fed == GENERATED):
            asks, searched = (fed, text) if turned else (text, fed)
            yield name, fed, (take(asks, task.query_ids), take(searched, task.item_ids)), device


@dataclass(frozen=True)
class MaxSim:
    """Scores by late interaction, of a block of queries with all items.

    Attributes:
        queries: their token matrices.
        items: theirs.
        exact: so many of the best of each query have the score without error; see the module.
        device: where products are made.
        block_bytes: of what is in memory at one time, beside the scores.
    """

    queries: TokenMatrices
    items: TokenMatrices
    exact: int
    device: str = "cpu"
    block_bytes: int = BLOCK_BYTES
    _alone: Lock = field(default_factory=Lock)  # a block has all cores, and the memory that is allowed

    def __len__(self) -> int:
        return len(self.queries)

    def block(self, start: int, stop: int) -> Block:
        """See `base.Scorer.block`."""
        with self._alone:
            asked = self.queries.select(slice(start, stop))
            scores, error = score_all(asked, self.items, self.device, self.block_bytes)
            k = min(self.exact, len(self.items))
            for row, own in enumerate(scores):
                cut = np.partition(own, len(own) - k)[len(own) - k]
                likely = np.flatnonzero(own >= cut - 2.0 * error[row])
                own[likely] = score_exactly(asked.matrix(row), self.items, likely, self.device, self.block_bytes)
            return scores


@dataclass(frozen=True)
class MaxSimReranker:
    """Late interaction over the best items of a retriever by single vectors."""

    queries: TokenMatrices
    items: TokenMatrices
    retriever: str
    fed: str
    device: str = "cpu"
    name: str = "maxsim"

    @property
    def inputs(self) -> tuple[str, ...]:
        """What an item is fed as."""
        return (self.fed,)

    @property
    def costs(self) -> tuple[str, ...]:
        """Parts of the stages' records that indexing takes: those of the retriever."""
        return costs_of(self.inputs)

    def scores(
        self, first: int, rows: Int[np.ndarray, "queries depth"], scores: Float32[np.ndarray, "queries depth"]
    ) -> Float32[np.ndarray, "queries depth"]:
        """New scores, without error; see `base.Reranker.scores`."""
        new = [
            score_exactly(self.queries.matrix(first + n), self.items, own, self.device) for n, own in enumerate(rows)
        ]
        return np.stack(new)


# ------------------------------------------------------------------------ all items


@dataclass(frozen=True)
class Plan:
    """Items that are brought to the device together, each padded to the same length by a token of its own.

    Attributes:
        rows: of the items, at most `1.25` times as long as one another, if not few.
        width: tokens of each.
        together: items of one product.
        step: query tokens of one product.
    """

    rows: Int64[np.ndarray, " items"]
    width: int
    together: int
    step: int

    def count_bytes(self, query_tokens: int, dim: int) -> int:
        """Count the bytes that are in memory at one time: both sides as read and in float32, products, and maxima."""
        sides = (len(self.rows) * self.width + query_tokens) * dim * (2 + 4)
        return sides + 4 * self.step * self.together * self.width + (4 + 8) * query_tokens * len(self.rows)


def plan_blocks(
    lengths: Int64[np.ndarray, " items"], query_tokens: int, dim: int, block_bytes: int, product_bytes: int
) -> Iterator[Plan]:
    """Plan in which blocks items are scored, the shortest first, so that little is padded.

    Args:
        lengths: tokens of each item.
        query_tokens: of all queries.
        dim: of a token's vector.
        block_bytes: what a block may take; one item alone may take more.
        product_bytes: of one product.
    """
    order = np.argsort(lengths, kind="stable")
    ordered = lengths[order]
    room = block_bytes - 6 * query_tokens * dim - product_bytes
    start = 0
    while start < len(order):
        alike = int(np.searchsorted(ordered, max(PADDING * ordered[start], ordered[start] + 4), side="right"))
        stop = start + 1
        # the longest of the block is its last: found by halving, as what a block takes grows with it
        low, high = stop, alike
        while low < high:
            middle = (low + high + 1) // 2
            width = int(ordered[middle - 1])
            fits = (middle - start) * (6 * width * dim + 12 * query_tokens) <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        stop = low
        width = int(ordered[stop - 1])
        step = min(query_tokens, max(1, product_bytes // (4 * width)), STEP)
        together = min(stop - start, max(1, product_bytes // (4 * width * step)))
        yield Plan(order[start:stop], width, together, step)
        start = stop


def score_all(
    queries: TokenMatrices,
    items: TokenMatrices,
    device: str,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[Block, Float64[np.ndarray, " queries"]]:
    """Score all items by products in float32.

    Args:
        queries: token matrices.
        items: token matrices.
        device: where products are made.
        block_bytes: of what is in memory at one time, beside the scores.

    Returns:
        The scores, and by query how far they may be from the exact ones.
    """
    scores = np.empty((len(queries), len(items)), dtype=np.float32)
    if not len(queries) or not len(items):
        return scores, np.zeros(len(queries))
    asked = torch.from_numpy(np.concatenate([queries.matrix(row) for row in range(len(queries))]))
    tokens = asked.to(device).float()  # (query tokens, dim)
    product_bytes = min(choose_product_bytes(device), block_bytes // 4)
    ends = np.cumsum(queries.lengths)
    with full_float32(), torch.inference_mode():
        for plan in plan_blocks(items.lengths, len(tokens), items.dim, block_bytes, product_bytes):
            block = torch.from_numpy(items.pad(plan.rows, plan.width)).to(device).float()
            best = _find_best(tokens, block, plan).double()  # (query tokens, items)
            sums = torch.stack([one.sum(dim=0) for one in best.tensor_split(torch.from_numpy(ends[:-1]))])
            scores[:, plan.rows] = sums.float().cpu().numpy()
    return scores, bound_error(queries.lengths, items.dim)


def choose_product_bytes(device: str) -> int:
    """Choose how large a product is made at once."""
    return IN_CACHE if device == "cpu" and torch.get_num_threads() == 1 else SHARED


def _find_best(
    tokens: Float32[torch.Tensor, "query_tokens dim"], block: Float32[torch.Tensor, "items width dim"], plan: Plan
) -> Float32[torch.Tensor, "query_tokens items"]:
    """The best product of each query token with the tokens of each item."""
    best = torch.empty(len(tokens), len(block), device=tokens.device)
    buffer = torch.empty(plan.step * plan.together * plan.width, device=tokens.device)
    for first in range(0, len(block), plan.together):
        some = block[first : first + plan.together]
        # the maximum of many short rows is taken across them, which is six times as fast
        across = len(some) > plan.width
        flat = (some.transpose(0, 1) if across else some).flatten(0, 1)
        shape, tokens_in = ((plan.width, len(some)), 1) if across else ((len(some), plan.width), 2)
        for start in range(0, len(tokens), plan.step):
            asked = tokens[start : start + plan.step]
            products = buffer[: len(asked) * len(flat)].view(len(asked), len(flat))
            torch.mm(asked, flat.T, out=products)
            best[start : start + plan.step, first : first + plan.together] = products.unflatten(1, shape).amax(
                tokens_in
            )
    return best


def bound_error(query_tokens: Int64[np.ndarray, " queries"], dim: int) -> Float64[np.ndarray, " queries"]:
    """Bound how far scores by products in float32 may be from the exact ones (Higham 2002, section 3.1).

    Args:
        query_tokens: tokens of each query.
        dim: of a token's vector.
    """
    longest = (1.0 + UNIT) ** 2
    return 1.01 * (dim + 4) * 2.0**-24 * longest * np.asarray(query_tokens, dtype=np.float64)


# ------------------------------------------------------------------------ a few items


def score_exactly(
    query: Matrix,
    items: TokenMatrices,
    rows: Int[np.ndarray, " some"],
    device: str,
    block_bytes: int = BLOCK_BYTES,
) -> Float32[np.ndarray, " some"]:
    """Score some items for one query without error; see the module.

    Args:
        query: its token matrix.
        items: token matrices.
        rows: of the items to score.
        device: where products are made; it has float64.
        block_bytes: of what is in memory at one time.
    """
    found = np.empty(len(rows), dtype=np.float32)
    order = np.argsort(items.lengths[rows], kind="stable")
    asked = torch.from_numpy(np.asarray(query, dtype=np.float64)).to(device)
    longest = int(items.lengths[rows].max(initial=1))
    step = max(1, block_bytes // (10 * longest * (items.dim + len(query))))
    with torch.inference_mode():
        for start in range(0, len(rows), step):
            some = order[start : start + step]
            width = int(items.lengths[rows[some[-1]]])
            block = torch.from_numpy(items.pad(rows[some], width)).to(device).double()
            best = (asked @ block.flatten(0, 1).T).view(len(asked), len(some), width).amax(dim=2)
            whole = (best * FIXED_POINT).to(torch.int64).sum(dim=0)  # of 2^-48, at most 2^14 below 2^49 each
            found[some] = (whole.double() / FIXED_POINT).float().cpu().numpy()
    return found
