"""Clock: what a single query takes, one at a time, by retriever: its vector, the search, the first answer of a process.

Queries are embedded by the encoder that the search page uses, vectors are scanned and words looked up as the index does
it, and what the index has no way for is scored as `rank` scores it. Nothing is run side by side.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from twinlens.config.models import EndpointTower, ModelCard, VectorsTower
from twinlens.config.params import Params
from twinlens.core import paths
from twinlens.core.costs import MB, describe_machine, peak_gpu_bytes, peak_host_bytes
from twinlens.core.errors import QueryError
from twinlens.core.shards import iter_pixels
from twinlens.core.token_matrices import read_token_matrices
from twinlens.core.vectors import has_vectors, read_vectors
from twinlens.indexing.answers import FOUND, Answer, Held, open_answer, search_at_once
from twinlens.indexing.manifest import Manifest
from twinlens.indexing.query_encoder import QueryEncoder
from twinlens.models.checkpoints import identify_all_weights
from twinlens.retrieval.base import Corpus, Dense, Reranker, Retriever, list_asked
from twinlens.retrieval.cross_encoder import find_shards
from twinlens.retrieval.registry import list_rerankers, list_retrievers
from twinlens.retrieval.scores import Block
from twinlens.retrieval.tokenize import tokenize
from twinlens.tasks.base import Task, read_tasks
from twinlens.tasks.inputs import IMAGES, OTHER_WAY, Input, check_ids, read_inputs

QUERIES, SEED = 50, 0  # that are clocked of each kind, drawn by this seed
WARM = 3  # that are asked before, unclocked
LEAST, MOST_S = 10, 5.0  # clocked even if they take longer than this together, after which the others are left out
ENDLESS_S = 60.0  # of all together, after which no further one is clocked at all
UNINDEXED = "none"  # the key of no table: weights are where `train` left them
BATCH = 128  # queries that are searched at once for the throughput

Seconds = Float64[np.ndarray, " queries"]


@dataclass(frozen=True)
class Encoding:
    """What it takes to turn queries of one input into vectors, one at a time."""

    seconds: Seconds
    first_s: float  # of the first in a fresh process: libraries and weights are loaded for it
    host_bytes: int  # the most memory of a process that did no more than that
    gpu_bytes: int | None


@dataclass
class Encodings:
    """Encodings by input, and why some have none."""

    known: dict[str, Encoding] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    light: bool = False  # whether texts need no torch: then what pictures wait for is not counted for both

    def first_s(self, names: Sequence[str]) -> float:
        """Seconds that the first query of several inputs together waits for its vectors."""
        waits = {self.known[name].first_s for name in names}
        return sum(waits) if self.light else max(waits, default=0.0)


def clock_each(work: Sequence[Callable[[], object]]) -> Seconds:
    """Clock each piece of work by itself, after a few unclocked ones; those beyond a limit of seconds are left out."""
    warmed, found = 0.0, list[float]()
    for one in itertools.islice(itertools.cycle(work), WARM):
        if warmed <= MOST_S:
            warmed += clock_once(one)
    for one in work:
        found.append(clock_once(one))
        if (len(found) >= LEAST and sum(found) > MOST_S) or sum(found) > ENDLESS_S:
            break
    return np.array(found)


def clock_once(work: Callable[[], object]) -> float:
    """Clock one piece of work, in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def draw(count: int, wanted: int = QUERIES) -> Int[np.ndarray, " drawn"]:
    """Draw which rows are asked, without repeats as far as there are as many, in the order of the draw."""
    rows = np.random.default_rng(SEED).permutation(count)[:wanted]
    return np.resize(rows, wanted) if count else rows


def clock_encodings(encoder: QueryEncoder, inputs: Mapping[str, Input], shards: Path) -> Encodings:
    """Clock what it takes to embed single queries of each input that the model reads.

    Texts come first: where the text tower is read without torch, the first answer has not to wait for it. Where both
    share a process, the second kind's first answer counts the first's too, unless that needed no torch.

    Args:
        encoder: that nothing was asked of yet.
        inputs: by name.
        shards: the folder of pictures.
    """
    found, waited = Encodings(light=encoder.light if not explain_unread(encoder.card, ["text"]) else False), 0.0
    first: dict[frozenset[str], tuple[float, int, int | None]] = {}
    for one in sorted(inputs.values(), key=lambda one: (len(one.reads), "image" in one.reads)):
        if not one.embedded or not len(one.rows):
            continue
        if why := explain_unread(encoder.card, one.reads):
            found.unknown[one.name] = why
            continue
        work = _list_work(encoder, one, shards)
        if one.reads not in first:
            waited += clock_once(work[0])
            first[one.reads] = (waited, peak_host_bytes(), peak_gpu_bytes())
            waited = 0.0 if found.light else waited
        found.known[one.name] = Encoding(clock_each(work), *first[one.reads])
    return found


def explain_unread(card: ModelCard, reads: Iterable[str]) -> str:
    """Explain why no query of such an input can be clocked; empty where it can be."""
    for kind in sorted(reads):
        tower = card.joint if card.joint is not None else card.towers().get(kind)
        if tower is None:
            return "the model does not read it"
        if isinstance(tower, VectorsTower):
            return "vectors come from files: nothing new can be embedded"
        if isinstance(tower, EndpointTower):
            return "a service embeds queries: none was sent to be clocked"
    return ""


def _list_work(encoder: QueryEncoder, one: Input, shards: Path) -> list[Callable[[], object]]:
    rows = one.rows[draw(len(one.rows)).tolist()]
    texts = rows["text"].to_list() if "text" in one.reads else [None] * len(rows)
    jpegs: list[bytes | None] = [None] * len(rows)
    if "image" in one.reads:
        wanted = rows.select("image_id", "shard", "row", "sha256").unique().sort("shard", "row")
        pixels = dict(iter_pixels(shards, wanted))
        jpegs = [pixels[image_id] for image_id in rows["image_id"]]

    def encode(text: str | None, jpeg: bytes | None) -> None:
        with suppress(QueryError):  # word vectors know no word of some text: that is an answer too
            if text is not None:
                encoder.text(text)
            if jpeg is not None:
                encoder.picture(jpeg)

    return [partial(encode, text, jpeg) for text, jpeg in zip(texts, jpegs, strict=True)]


@dataclass(frozen=True)
class Start:
    """What it took to get as far as reading the settings."""

    seconds: float
    host_bytes: int


class Clock:
    """Clock of the retrievers of a model on a dataset."""

    def __init__(self, inputs: Mapping[str, Input], encodings: Encodings, start: Start, device: str) -> None:
        """Take over what was clocked before.

        Args:
            inputs: by name.
            encodings: of them.
            start: of the process.
            device: where the batched search of vectors runs.
        """
        self.inputs, self.encodings, self.start, self.device = inputs, encodings, start, device

    def clock(
        self, task: Task, retriever: Retriever, again: Sequence[tuple[Reranker, int]] = ()
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Clock a retriever, and its rerankers with the number of best items that each takes.

        Yields:
            Names of rows, with their figures.
        """
        began = time.perf_counter()
        made = retriever.make()
        if retriever.fitted and isinstance(made, Dense):
            made = Dense(np.asarray(made.queries), made.items)
        fit_s = (time.perf_counter() - began) / max(1, len(made)) if retriever.fitted else 0.0
        asked, rows = list_asked(task.about, retriever), draw(len(made))
        texts = self._texts(asked, task, rows)
        held, count, items = Held(), min(BATCH, len(made)), len(task.item_ids)
        with tempfile.TemporaryDirectory() as folder:
            depth = max([FOUND, *(best for _, best in again)])
            answer = open_answer(made, Path(folder) / "postings", held, depth)
            first_s = clock_once(partial(answer, int(rows[0]), texts[0]))
            search = clock_each([partial(answer, int(n), text) for n, text in zip(rows, texts, strict=True)])
            together = (
                min(clock_once(partial(search_at_once, made, items, count, self.device)) for _ in range(2)) / count
            )
            figures = self._tell(task, retriever, asked, search + fit_s, first_s + fit_s, together + fit_s, held)
            yield retriever.name, figures
            for reranker, depth in again:
                first_more_s, more = self._rerank(answer, reranker, depth, rows, texts)
                longer = np.resize(search, len(more)) + more
                slower = together + float(more.mean())
                told = self._tell(task, retriever, asked, longer, first_s + first_more_s, slower, held)
                yield f"{retriever.name}_{reranker.name}", told | self._tell_reranker(reranker, told, len(more))

    def _tell_reranker(self, reranker: Reranker, told: Mapping[str, Any], clocked: int) -> dict[str, Any]:
        """What differs in the figures of a row where its reranker has a model of its own, or is very slow."""
        found: dict[str, Any] = {key: min(told[key], clocked) for key in ("queries",) if key in told}
        if reranker.loads and "host_mb" in told:
            found["host_mb"] = max(told["host_mb"], round(peak_host_bytes() / MB, 1))
            if (gpu := peak_gpu_bytes()) is not None:
                found["gpu_mb"] = max(told.get("gpu_mb", 0.0), round(gpu / MB, 1))
        return found

    def _rerank(
        self, answer: Answer, reranker: Reranker, depth: int, rows: np.ndarray, texts: list[str]
    ) -> tuple[float, Seconds]:
        """Seconds of a reranker alone, with the words of the query read anew: of the first, and of each once warm."""

        def work(n: int, text: str, best: np.ndarray, score: Block) -> None:
            tokenize(text)
            reranker.scores(n, best[:, :depth], score[:, :depth])

        asked = [(int(n), text) for n, text in zip(rows, texts, strict=True)]
        each = [partial(work, n, text, *answer(n, text)) for n, text in asked]
        return clock_once(each[0]), clock_each(each)

    def _texts(self, asked: Sequence[str], task: Task, rows: np.ndarray) -> list[str]:
        """The words of the drawn queries; empty where they have none."""
        name = next((name for name in asked if "text" in self.inputs[name].reads), None)
        if name is None:
            return [""] * len(rows)
        said = dict(self.inputs[name].rows.select("id", "text").iter_rows())
        ids = [task.query_ids[int(n)] for n in rows]
        anything = self.inputs[name].rows["text"].to_list()
        return [said.get(own, anything[int(n) % len(anything)]) for own, n in zip(ids, rows, strict=True)]

    def _tell(
        self,
        task: Task,
        retriever: Retriever,
        asked: Sequence[str],
        search: Seconds,
        first_s: float,
        together_s: float,
        held: Held,
    ) -> dict[str, Any]:
        items = max(1, len(task.item_ids))
        told: dict[str, Any] = {
            "asks": list(asked),
            "search_ms": round(1000.0 * float(np.median(search)), 4),
            "searches_per_s": round(1.0 / together_s, 1) if together_s > 0 else 0.0,
            "vector_bytes": round(held.vector_bytes / items, 1),
            "posting_bytes": round(held.posting_bytes / items, 1),
        }
        embedded = [name for name in asked if any(part.startswith("embed_") for part in retriever.costs)]
        lacking = [name for name in embedded if name not in self.encodings.known]
        if lacking:
            return told | {"why": self.encodings.unknown.get(lacking[0], f"{lacking[0]} is not embedded")}
        pictures = len(task.shown[0]) if task.shown else 1  # that a query shows
        encodings = [self.encodings.known[name] for name in embedded]
        times = [pictures if "image" in self.inputs[name].reads else 1 for name in embedded]
        size = max([len(search), *(len(one.seconds) for one in encodings)])
        encode = sum(
            (np.resize(one.seconds, size) * n for one, n in zip(encodings, times, strict=True)), np.zeros(size)
        )
        whole = 1000.0 * (encode + np.resize(search, size))
        memory = max([self.start.host_bytes, *(one.host_bytes for one in encodings)])
        gpu = [one.gpu_bytes or 0 for one in encodings]  # a row by words takes none
        on_gpu = any(one.gpu_bytes is not None for one in self.encodings.known.values())
        return (
            told
            | {
                "encode_ms": round(1000.0 * float(np.median(encode)), 4),
                "ms_per_query": round(float(np.median(whole)), 4),
                "ms_p95": round(float(np.percentile(whole, 95)), 4),
                "ms_mean": round(float(whole.mean()), 4),
                "queries": size,
                "cold_start_s": round(self.start.seconds + self.encodings.first_s(embedded) + first_s, 3),
                "host_mb": round((memory + held.vector_bytes + held.posting_bytes) / MB, 1),
            }
            | ({"gpu_mb": round(max(gpu, default=0) / MB, 1)} if on_gpu else {})
        )


def clock_model(params: Params, dataset: str, model: str, start: Start) -> dict[str, Any]:
    """Clock every retriever and reranker of a model on a dataset.

    Args:
        params: params.yaml.
        dataset: a key of its cards, as the other.
        model: see `dataset`.
        start: of this process, in which no model was loaded yet.

    Returns:
        `machine`, `seconds` that all of it took, and by task and row the figures of `Clock.clock`.
    """
    began = time.perf_counter()
    card, folder = params.models[model], paths.tasks(dataset, params.captioner)
    inputs, trained = read_inputs(folder / "inputs"), paths.trained(dataset, model)
    manifest = Manifest(UNINDEXED, dataset, model, params.captioner, 0, {}, {}, identify_all_weights(card, trained))
    encoder = QueryEncoder(card, manifest, params.compute.device, "dvc repro train")
    encodings = clock_encodings(encoder, inputs, paths.resized(dataset))
    embedded = paths.embedded(dataset, model)
    there = [name + way for way in ("", OTHER_WAY) for name in inputs if has_vectors(embedded, name + way)]
    vectors = {name: read_vectors(embedded, name) for name in there}
    for name, found in vectors.items():
        check_ids(inputs, name, found.ids)
    texts = {name: one.rows for name, one in inputs.items() if "text" in one.reads}
    pool = inputs[IMAGES].rows if IMAGES in inputs else None
    tokens, shards = read_token_matrices(embedded, vectors), find_shards(card, dataset)
    corpus = Corpus(vectors, texts, card.shares_a_space, None, shards, pool, tokens=tokens, keep=False)

    from twinlens.core.device import choose_device  # torch, which the first answers did without where they could

    placement = choose_device(params.compute.device)
    clock = Clock(inputs, encodings, start, str(placement.device))
    rows: dict[str, dict[str, Any]] = {}
    for task in (task for task in read_tasks(folder) if task.about.published_of is None):
        rerankers = list_rerankers(task, corpus, params)
        for one in list_retrievers(task, corpus, params):
            if one.published:
                continue
            best = min(params.rank.rerank_depth, params.rank.depth, len(task.item_ids))
            again = [(reranker, best) for reranker in rerankers if reranker.retriever == one.name]
            rows.setdefault(task.name, {}).update(clock.clock(task, one, again))
    seconds = round(time.perf_counter() - began, 3)
    machine = describe_machine(placement.name)
    return {"machine": machine, "seconds": seconds, "seed": SEED, "tasks": rows}
