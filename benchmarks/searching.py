"""Search over 100,000 pictures: exact queries, hybrids of eight clients at once, marks, building, a command's start.

python -m benchmarks.run --only search
python -m benchmarks.run --only search --pictures 20000

The index is a real one of drawn words and random vectors; its model is a small CLIP with random weights, which takes as
long as a trained one.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import faiss
import lancedb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
import torch
from lancedb.index import FTS
from lancedb.query import MatchQuery

from benchmarks.choice import copy_choice
from benchmarks.exemplar import by_marks
from benchmarks.paired import Row, alternate, median, ratio, unit_vectors
from twinlens import Searcher
from twinlens.config.load import read_params
from twinlens.config.params import Params
from twinlens.core import paths, tables
from twinlens.core.shards import shard_path
from twinlens.indexing import scans
from twinlens.indexing.build import write_table
from twinlens.indexing.index import WeightedVector
from twinlens.indexing.manifest import FOLDER, Manifest
from twinlens.indexing.material import IndexContent
from twinlens.indexing.store import IMAGE_VECTOR, RowStore
from twinlens.models.checkpoints import identify_all_weights
from twinlens.retrieval.tokenize import tokenize as words_of
from twinlens.training.tokenizer import learn_tokenizer

ROOT = Path(__file__).parent.parent
DIM, K, CLIENTS = 512, 10, 8
PLAIN, TABLE = "plain", "pictures"  # the same as a table of LanceDB, for comparison
WHOLE_WORDS = FTS(
    base_tokenizer="whitespace", stem=False, remove_stop_words=False, lower_case=False, ascii_folding=False
)
WORDS = 5_000  # of the vocabulary; how often they come falls as in Zipf's law
PER_SHARD = 10_000
WITH_OPEN_CLIP = (
    "import sys; from twinlens.indexing.query_encoder import QueryEncoder; QueryEncoder._light = None; "
    "from twinlens.apps.cli import main; main(sys.argv[1:])"
)


def run(pictures: int, rounds: int) -> list[Row]:
    """All of it, on one index."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder), _scratch(folder):
        copy_choice(Path(folder))
        params = read_params()
        material = _material(pictures)
        _write_weights(paths.trained(params.dataset, params.model) / "weights", material)
        building = _build(params, material)
        searcher = Searcher()
        searcher.warm()
        return [
            *_exact(searcher, material, rounds),
            *_hybrid(searcher, rounds),
            by_marks(searcher, [" ".join(_drawn(np.random.default_rng(seed), 4)) for seed in range(20)], K),
            *building,
            *_start(pictures, rounds),
        ]


def _exact(searcher: Searcher, material: IndexContent, rounds: int) -> list[Row]:
    """One query after the other, each way the same ones."""
    assert material.image_vectors is not None
    rows, queries = np.array(material.image_vectors), unit_vectors(20, DIM, seed=1)
    index, settings = searcher.index, searcher.params.search
    flat = faiss.IndexFlatIP(DIM)
    flat.add(rows)
    faiss.omp_set_num_threads(torch.get_num_threads())

    def bare() -> list[np.ndarray]:
        found = []
        for query in queries:
            scores = rows @ query
            top = np.argpartition(scores, -K)[-K:]
            found.append(top[np.argsort(-scores[top])])
        return found

    def ours() -> list[np.ndarray]:
        return [index.nearest([WeightedVector(IMAGE_VECTOR, query)], K, (), settings)[0] for query in queries]

    table = lancedb.connect(PLAIN).open_table(TABLE)

    def by_lancedb() -> None:
        for query in queries:
            table.search(query, vector_column_name=IMAGE_VECTOR).distance_type("dot").limit(K).select(
                ["row", "_distance"]
            ).to_arrow()

    taken = alternate(
        {"bare": bare, "ours": ours, "faiss": lambda: [flat.search(query[None], K) for query in queries]}, rounds
    )
    taken |= alternate({"lancedb": by_lancedb}, 1)
    texts = [_drawn(np.random.default_rng(seed), 4) for seed in range(20)]

    def words_by_lancedb() -> None:
        for words in texts:
            query = MatchQuery(" ".join(words), "words")
            table.search(query, query_type="fts").limit(100).select(["row", "_score"]).to_arrow()

    taken |= alternate(
        {
            "words": lambda: [index.search_words(words, 100, ()) for words in texts],
            "words by lancedb": words_by_lancedb,
        },
        rounds,
    )
    same = np.mean([set(a) == set(b) for a, b in zip(ours(), bare(), strict=True)])

    def each(way: str) -> str:
        return f"{1000 * median(taken, way) / len(queries):.1f} ms"

    return [
        Row(
            f"exact {K} nearest of {len(rows):,} x {DIM}, one query; the same for {same:.0%}",
            each("ours"),
            f"numpy's product and top {K}: {each('bare')}",
            f"{ratio(taken, 'ours', 'bare'):.2f} times it",
            "at most 1.5",
        ),
        Row("the same", each("ours"), f"faiss IndexFlatIP {each('faiss')}", f"{ratio(taken, 'ours', 'faiss'):.2f}"),
        Row(
            "the same",
            each("ours"),
            f"LanceDB without an index {each('lancedb')}",
            f"{median(taken, 'ours') / median(taken, 'lancedb'):.2f}",
        ),
        Row(
            "BM25, four words, the best 100",
            each("words"),
            f"LanceDB's full-text index {each('words by lancedb')}",
            f"{ratio(taken, 'words', 'words by lancedb'):.2f}",
        ),
    ]


def _hybrid(searcher: Searcher, rounds: int, each: int = 25) -> list[Row]:
    """Eight clients at once, each asking as soon as it is answered; with shared passes and without, in turn."""
    texts = [" ".join(_drawn(np.random.default_rng(seed), 4)) for seed in range(CLIENTS * each)]
    searcher.search(texts[0], mode="hybrid")
    kept: dict[int, list[float]] = {at_once: [] for at_once in (scans.AT_ONCE, 1)}
    parts: dict[str, list[float]] = {}

    def client(number: int) -> list[float]:
        waited = []
        for text in texts[number * each : (number + 1) * each]:
            started = time.perf_counter()
            found = searcher.search(text, mode="hybrid", k=K)
            waited.append(time.perf_counter() - started)
            for part, seconds in found.seconds.items():
                parts.setdefault(part, []).append(seconds)
        return waited

    before, spent, passed = scans.AT_ONCE, dict.fromkeys(kept, 0.0), dict.fromkeys(kept, 0.0)
    for _ in range(rounds):
        for at_once, found in kept.items():
            scans.AT_ONCE = at_once
            cpu, clock = time.process_time(), time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as clients:
                found += [seconds for waited in clients.map(client, range(CLIENTS)) for seconds in waited]
            spent[at_once] += time.process_time() - cpu
            passed[at_once] += time.perf_counter() - clock
    scans.AT_ONCE = before
    (half, last), (half_alone, last_alone) = (_quantiles(found) for found in kept.values())
    alone = [_timed(lambda text=text: searcher.search(text, mode="hybrid", k=K)) for text in texts[:each]]  # type: ignore[misc]
    each_cpu = {at_once: 1000 * seconds / len(kept[at_once]) for at_once, seconds in spent.items()}
    print("hybrid, median ms by part:", {part: round(1000 * statistics.median(s), 2) for part, s in parts.items()})
    return [
        Row(
            f"hybrid query, {CLIENTS} clients at once, from words to pictures: median",
            f"{half:.0f} ms",
            f"a pass for each: {half_alone:.0f} ms; a client alone: {statistics.median(alone):.0f} ms",
            f"{half / half_alone:.2f}",
            "under 100 ms",
        ),
        Row("the same, 99th percentile", f"{last:.0f} ms", f"a pass for each: {last_alone:.0f} ms", "", "under 300 ms"),
        Row(
            "the same, of a processor",
            f"{each_cpu[before]:.1f} ms a query, {spent[before] / passed[before]:.2f} processors were to be had",
            f"a pass for each: {each_cpu[1]:.1f} ms",
            f"{each_cpu[before] / each_cpu[1]:.2f}",
            f"eight clients on two whole processors: {CLIENTS * each_cpu[before] / 2:.0f} ms",
        ),
    ]


def _build(params: Params, material: IndexContent) -> list[Row]:
    """The index, then the same columns as plain LanceDB and the image vectors as faiss."""
    dataset, model, captioner = params.dataset, params.model, params.captioner
    shards, rows = paths.resized(dataset), material.image_vectors
    assert rows is not None
    identity = identify_all_weights(params.models[model], paths.trained(dataset, model))
    manifest = Manifest("bench", dataset, model, captioner, len(material), params.index.model_dump(), {}, identity)
    manifest.folder.mkdir(parents=True)
    ours_s = _timed(lambda: write_table(manifest, material, shards, manifest.folder / FOLDER, 2)) / 1000
    manifest.write(paths.indexed(dataset, model, captioner))
    held = _columns(manifest.folder / FOLDER)

    def plain() -> None:
        lancedb.connect(PLAIN).create_table(TABLE, data=held).create_index("words", config=WHOLE_WORDS)

    plain_s = _timed(plain) / 1000
    flat = faiss.IndexFlatIP(DIM)
    faiss_s = _timed(lambda: (flat.add(np.asarray(rows)), faiss.write_index(flat, "flat.faiss"))) / 1000
    size, plain_size = _megabytes(manifest.folder), _megabytes(Path(PLAIN))
    return [
        Row(
            f"index of {len(material):,} pictures: thumbnails, words, two vectors each",
            f"{ours_s:.0f} s",
            f"plain LanceDB given the finished columns {plain_s:.0f} s; faiss, image vectors only {faiss_s:.1f} s",
            f"{ours_s / plain_s:.1f} times LanceDB",
        ),
        Row(
            "its size on disk",
            f"{size:,.0f} MB",
            f"plain LanceDB {plain_size:,.0f} MB; faiss {Path('flat.faiss').stat().st_size / 1e6:,.0f} MB",
            f"{size / plain_size:.1f} times LanceDB",
        ),
    ]


def _columns(folder: Path) -> pa.Table:
    """All that an index holds, as one table."""
    copy = RowStore(folder)
    names = ("image_id", "thumbnail", "captions", "caption_generated", "labels")
    columns: dict[str, Any] = {"row": range(len(copy))} | {name: copy.column(name) for name in names}
    texts = [[*human, machine or ""] for human, machine in zip(*map(copy.column, names[2:4]), strict=True)]
    columns["words"] = [" ".join(word for text in own for word in words_of(text)) for own in texts]
    for name in copy.spaces:
        rows = copy.space(name).rows
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    return pa.table(columns)


def _start(pictures: int, rounds: int) -> list[Row]:
    """`twinlens search` from nothing to the answer, with and without torch."""
    question = ["search", " ".join(_drawn(np.random.default_rng(0), 4)), "-k", "3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    cpu: dict[str, list[float]] = {}

    def started(name: str, *command: str) -> Callable[[], None]:
        def start() -> None:
            before = os.times()
            subprocess.run([sys.executable, *command], env=environment, check=True, stdout=subprocess.DEVNULL)
            after = os.times()
            spent = after.children_user + after.children_system - before.children_user - before.children_system
            cpu.setdefault(name, []).append(spent)

        return start

    taken = alternate(
        {
            "ours": started("ours", "-m", "twinlens", *question),
            "open_clip": started("open_clip", "-c", WITH_OPEN_CLIP, *question),
            "hybrid": started("hybrid", "-m", "twinlens", *question, "--mode", "hybrid"),
            "python": started("python", "-c", "import numpy"),
        },
        rounds,
    )

    def both(name: str) -> str:
        return f"{median(taken, name):.2f} s ({statistics.median(cpu[name]):.2f} s of a processor)"

    return [
        Row(
            f"`twinlens search` from nothing to the first result, {pictures:,} pictures, a small text tower",
            both("ours"),
            f"words embedded by open_clip: {both('open_clip')}; Python with numpy alone: {both('python')}",
            f"{ratio(taken, 'ours', 'open_clip'):.2f}",
            "under 3 s",
        ),
        Row("the same, hybrid", both("hybrid"), "", "", "under 3 s"),
    ]


def _material(pictures: int) -> IndexContent:
    ids = [f"picture-{n:06d}" for n in range(pictures)]
    noise = np.random.default_rng(0).integers(0, 255, (499, 48, 48, 3), dtype=np.uint8)
    jpegs = [simplejpeg.encode_jpeg(picture, quality=80) for picture in noise]
    shards = paths.resized("scenes")
    shards.mkdir(parents=True)
    for number, start in enumerate(range(0, pictures, PER_SHARD)):
        some = ids[start : start + PER_SHARD]
        rows = {"image_id": some, "jpeg": [jpegs[n % len(jpegs)] for n in range(len(some))]}
        pq.write_table(pa.table(rows, schema=tables.PIXELS), shard_path(shards, number))
    places = np.arange(pictures)
    pool = pl.DataFrame({"image_id": ids, "shard": places // PER_SHARD, "row": places % PER_SHARD, "sha256": ids})
    rng = np.random.default_rng(2)
    captions = [[" ".join(_drawn(rng, 10)) for _ in range(2)] for _ in ids]
    images, texts = (unit_vectors(pictures, DIM, seed) for seed in (3, 4))
    nothing = {"caption_generated": pl.Series([None] * pictures, dtype=pl.String), "labels": [[]] * pictures}
    words = pl.DataFrame({"captions": captions, **nothing}, schema_overrides={"labels": pl.List(pl.String)})
    return IndexContent(pool, words, images, texts, np.ones(pictures, dtype=np.bool_), None)


def _drawn(rng: np.random.Generator, count: int) -> list[str]:
    return [f"w{min(int(rank), WORDS)}" for rank in rng.zipf(1.3, count)]


def _write_weights(folder: Path, material: IndexContent) -> None:
    """A small CLIP of 512 dimensions as `train` leaves it."""
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    tokenizer = learn_tokenizer([text for texts in material.texts["captions"][:2_000] for text in texts])
    text = {"context_length": 77, "vocab_size": len(tokenizer), "width": 128, "heads": 4, "layers": 2}
    config = {
        "embed_dim": DIM,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
        "text_cfg": text | {"hf_tokenizer_name": "beside the weights"},
    }
    torch.manual_seed(0)
    model = CLIP(**config)
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    tokenizer.save_pretrained(folder)


@contextmanager
def _scratch(folder: str) -> Iterator[None]:
    before = os.environ.get("TWINLENS_SCRATCH")
    os.environ["TWINLENS_SCRATCH"] = f"{folder}/scratch"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TWINLENS_SCRATCH"]
        else:
            os.environ["TWINLENS_SCRATCH"] = before


def _quantiles(seconds: list[float]) -> tuple[float, float]:
    half, last = np.quantile(seconds, [0.5, 0.99])
    return 1000 * float(half), 1000 * float(last)


def _timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
