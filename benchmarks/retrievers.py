"""All retrievers of a pool of clustered vectors and captions, as the stage `rank` runs them: seconds by part.

python -m benchmarks.retrievers --pictures 5000 --device auto
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.paired import Row
from twinlens.config.gates import Gates
from twinlens.config.load import read_params
from twinlens.config.params import Params
from twinlens.core.device import choose_device
from twinlens.core.vectors import Vectors
from twinlens.retrieval.base import Corpus
from twinlens.retrieval.lexical import read_validation
from twinlens.retrieval.rank import group_retrievers, rerank, restate_as_published, search_together
from twinlens.retrieval.registry import list_rerankers, list_retrievers
from twinlens.tasks.base import Task
from twinlens.tasks.collection import Collection
from twinlens.tasks.inputs import IMAGES, UNTRAINED, Input
from twinlens.tasks.registry import build_tasks
from twinlens.tasks.validation import draw_validation

CAPTIONS_PER_PICTURE = 5
CLASSES = 80
OUTSIDE = 1_300  # pictures of the training split, for negatives, and of the validation split, for weights
OTHER_WORD = 0.15  # share of the words of a caption that are replaced in a variation of it


@dataclass(frozen=True)
class Pool:
    """A pool that is ready to be searched."""

    params: Params
    tasks: list[Task]
    corpus: Corpus


def build_pool(pictures: int, dim: int, seed: int = 0, outside: int = OUTSIDE) -> Pool:
    """Build a pool: pictures of classes in clusters, five captions each, a generated one, and vectors of all of it."""
    rng = np.random.default_rng(seed)
    params = read_params()
    splits = ["test"] * pictures + ["train"] * outside + ["val"] * outside
    ids = [f"{split}{n:06d}" for n, split in enumerate(splits)]
    labels = [sorted({f"class_{c:02d}" for c in rng.zipf(1.5, 1 + n % 3) % CLASSES}) for n in range(len(ids))]
    sets = pl.Series(["+".join(own) for own in labels])
    alone = (sets.is_first_distinct() & sets.is_last_distinct()).to_numpy()
    images = pl.DataFrame({"image_id": ids, "file": ids, "split": splits, "labels": labels})
    groups = pl.DataFrame(
        {
            "image_id": ids,
            "split": splits,
            "in_pool": [split == "test" for split in splits],
            "object_set": [None if one else name for one, name in zip(alone, sets, strict=True)],
            "shard": np.zeros(len(ids), dtype=np.int32),
            "row": np.arange(len(ids), dtype=np.int32),
            "sha256": ids,
        }
    )
    texts = list(_vary(rng, len(ids) * (CAPTIONS_PER_PICTURE + 1)))
    said, generated = texts[len(ids) :], texts[: len(ids)]
    of_caption = np.repeat(np.arange(len(ids)), CAPTIONS_PER_PICTURE)
    captions = pl.DataFrame(
        {
            "caption_id": [f"{ids[row]}#{n % CAPTIONS_PER_PICTURE}" for n, row in enumerate(of_caption)],
            "image_id": [ids[row] for row in of_caption],
            "text": said,
        }
    )
    told = pl.DataFrame({"image_id": ids, "text": generated})
    no_queries = pl.DataFrame(schema=dict.fromkeys(("query_id", "image_id", "text", "target_id"), pl.String))
    drawn = draw_validation(groups, captions, params.hybrid).select("image_id").join(told, on="image_id")
    collection = Collection(groups, images, captions, told[:pictures], drawn, no_queries.with_columns(gain=1.0))
    tasks, inputs = build_tasks(collection, params)
    centres = _draw_clusters(rng, labels, dim)
    place = {name: row for row, name in enumerate(ids)} | {f"class_{n:02d}": len(ids) + n for n in range(CLASSES)}
    vectors = {
        one.name + way: _embed(one, centres, place, rng)
        for one in inputs
        if one.embedded
        for way in ("", UNTRAINED)
        if not way or UNTRAINED in one.again
    }
    named = {one.name: one for one in inputs}
    validation = read_validation(params, vectors, named, ids[:pictures])
    written = {one.name: one.rows for one in inputs if "text" in one.reads}
    return Pool(params, tasks, Corpus(vectors, written, joint=True, validation=validation))


def rank_all(pool: Pool, device: str, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Run every retriever and reranker as the stage does, and write what it writes: seconds by task and name."""
    taken: dict[str, float] = {}
    gates = Gates(pool.params.gates)
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch)
        for task in pool.tasks:
            started = clock()
            found = {(one.name, one.published): one for one in list_retrievers(task, pool.corpus, pool.params)}
            taken[f"{task.name}: listing"] = clock() - started
            for together in group_retrievers(found.values()):
                started = clock()
                mine = restate_as_published(task) if together[0].published else task
                if not (draft / mine.name).exists():
                    mine.write(draft / mine.name)
                search_together(mine, together, pool.params.rank.depth, device, draft / mine.name, gates)
                others = f" and {len(together) - 1} by words and fused" if len(together) > 1 else ""
                taken[f"{mine.name}: {together[0].name}{others}"] = clock() - started
            for again in list_rerankers(task, pool.corpus, pool.params):
                if (first := found.get((again.retriever, False))) is not None:
                    started = clock()
                    rerank(task, first, again, pool.params.rank, device, draft / task.name)
                    taken[f"{task.name}: {again.retriever}_{again.name}"] = clock() - started
    return taken


def run(pictures: int, dim: int, device: str, wanted: str = "") -> list[Row]:
    """All retrievers of one pool, and the slowest of them."""
    device = str(choose_device(device).device)
    pool = build_pool(pictures, dim)
    taken = rank_all(pool, device)
    slowest = sorted(taken.items(), key=lambda part: -part[1])
    captions = len(pool.corpus.texts["captions"])
    return [
        Row(
            f"all {len(taken) - len(pool.tasks)} retrievers of {pictures:,} pictures and {captions:,} captions x {dim}",
            f"{sum(taken.values()):.1f} s",
            f"on {device}, {os.cpu_count()} cores; runs written",
            "",
            wanted,
        ),
        *(Row(f"of it, {name}", f"{seconds:.2f} s", "", "") for name, seconds in slowest[:12]),
    ]


def _vary(rng: np.random.Generator, count: int) -> Iterator[str]:
    """Real captions where there are some, else sentences of a made-up vocabulary, each with some words replaced."""
    sentences = _read_captions() or _make_up(rng, 3_000)
    words = np.array(sorted({word for sentence in sentences for word in sentence.split()}))
    for n in rng.integers(0, len(sentences), count):
        own = sentences[n].split()
        other = rng.random(len(own)) < OTHER_WORD
        yield " ".join(str(rng.choice(words)) if new else word for word, new in zip(own, other, strict=True))


def _read_captions() -> list[str]:
    shared = Path(os.environ.get("TWINLENS_SHARED_DATA", "../shared/data"))
    archive = shared / "coco/annotations_trainval2017.zip"
    if not archive.exists():
        return []
    with zipfile.ZipFile(archive) as files:
        name = next(name for name in files.namelist() if name.endswith("captions_val2017.json"))
        listed = json.loads(files.read(name))["annotations"]
    return [" ".join(re.findall(r"\w+", one["caption"])) for one in listed]


def _make_up(rng: np.random.Generator, count: int) -> list[str]:
    """Sentences of ten or so words, whose frequencies fall as those of a language do."""
    return [" ".join(f"word{n % 4_000}" for n in rng.zipf(1.3, rng.integers(8, 14))) for _ in range(count)]


def _draw_clusters(rng: np.random.Generator, labels: list[list[str]], dim: int) -> np.ndarray:
    """A picture's meaning: its classes, and what is its own; after the pictures those of the classes themselves."""
    fall = 1.0 / np.sqrt(np.arange(1, dim + 1))
    of_class = rng.standard_normal((CLASSES, dim)) * fall
    mixed = np.stack([of_class[[int(name[-2:]) for name in own]].mean(axis=0) for own in labels])
    return np.concatenate([mixed + 0.7 * rng.standard_normal(mixed.shape) * fall, of_class])


def _embed(one: Input, centres: np.ndarray, place: dict[str, int], rng: np.random.Generator) -> Vectors:
    shift = np.zeros(centres.shape[1])
    shift[0 if IMAGES in one.name else 1] = 2.0  # pictures and words lie apart
    ids, of = one.rows["id"].to_list(), one.rows["image_id"].to_list()
    found = centres[[place[name] for name in of]] + shift
    found += 0.5 * rng.standard_normal(found.shape) / np.sqrt(np.arange(1, found.shape[1] + 1))
    return Vectors(ids, of, (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    for row in run(options.pictures, options.dim, options.device):
        print(f"{row.what:80} {row.figure:>10}  {row.against}")
