"""Single queries, clocked: by a fake clock, in the order that was drawn, of what is asked and held."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import torch

from stages import clock as stage
from tests.indexing.conftest import CAPTIONER, CHECKPOINT, DATASET, MODEL
from twinlens.config.models import EndpointTower, ModelCard, VectorsTower
from twinlens.core import costs, paths
from twinlens.core.costs import describe_machine, name_machine, name_machine_of, seconds_since_start
from twinlens.indexing import clock
from twinlens.indexing.answers import Held, find_best, open_answer
from twinlens.indexing.clock import Encoding, Encodings, Start, clock_each, draw, explain_unread
from twinlens.indexing.scans import Scans
from twinlens.retrieval.base import Dense, Retriever, list_asked
from twinlens.retrieval.bm25 import Bm25
from twinlens.retrieval.hybrid import Hybrid, fuse_by_weight
from twinlens.retrieval.lexical import WordScores
from twinlens.tasks.base import Task, TaskMetadata
from twinlens.tasks.inputs import CAPTIONS, Input
from twinlens.tasks.qrels import Groups

TEXTS = ["red square", "blue circle", "red circle", "a green star"]
UNIT = np.eye(4, dtype=np.float32)


class Watch:
    """A clock that each piece of work moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[..., None]:
        def one(*asked: object) -> None:
            self.now += seconds

        return one


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    made = Watch()
    monkeypatch.setattr(clock, "time", made)
    return made


def words(texts: list[str] = TEXTS) -> WordScores:
    index = Bm25.of([text.split() for text in texts])
    return WordScores(index, index.queries([text.split() for text in texts]))


def task(category: str = "t2i", **more: Any) -> Task:
    ids = [f"p{n}" for n in range(4)]
    about = TaskMetadata("toy", category, 0, query_text=CAPTIONS)  # type: ignore[arg-type]
    return Task("toy", about, ids, ids, ids, Groups(np.arange(4), np.arange(4)), **more)


def captions() -> Input:
    rows = pl.DataFrame({"id": [f"p{n}" for n in range(4)], "image_id": [f"p{n}" for n in range(4)], "text": TEXTS})
    return Input(CAPTIONS, rows)


def test_each_is_clocked_by_itself_after_a_few_that_are_not(watch: Watch) -> None:
    calls: list[int] = []

    def one(n: int) -> Callable[[], None]:
        def run() -> None:
            calls.append(n)
            watch.now += n

        return run

    assert clock_each([one(1), one(2)]).tolist() == [1.0, 2.0]
    assert calls == [1, 2, 1, 1, 2]


def test_slow_queries_end_at_the_limit_but_not_before_there_are_enough(watch: Watch) -> None:
    assert len(clock_each([watch.work(1.0)] * 50)) == clock.LEAST
    assert len(clock_each([watch.work(0.01)] * 50)) == 50


def test_the_draw_is_the_same_each_time_and_repeats_only_what_is_too_few() -> None:
    assert draw(1000).tolist() == draw(1000).tolist()
    assert len(set(draw(1000).tolist())) == clock.QUERIES
    assert sorted(set(draw(3).tolist())) == [0, 1, 2]
    assert len(draw(3)) == clock.QUERIES


def test_an_answer_holds_the_best_items_of_vectors_of_words_and_of_both(tmp_path: Path) -> None:
    dense, held = Dense(UNIT, UNIT), Held()
    rows, scores = open_answer(dense, tmp_path / "none", held, 2)(2, "")
    assert (rows[0, 0], scores[0, 0]) == (2, 1.0)
    assert (held.vector_bytes, held.posting_bytes) == (UNIT.nbytes, 0)
    rows, scores = open_answer(words(), tmp_path / "words", held, 2)(0, "green star")
    assert rows[0, 0] == 3
    assert held.posting_bytes == sum(file.stat().st_size for file in (tmp_path / "words").iterdir())
    fused = Hybrid(dense, words(), lambda image, said: fuse_by_weight(image, said, 0.5))
    rows, _ = open_answer(fused, tmp_path / "both", held, 2)(1, "red square")
    assert set(rows[0].tolist()) == {0, 1}  # by its words, and by its vector
    assert held.vector_bytes == 2 * UNIT.nbytes


def test_a_scan_finds_what_an_exact_search_finds() -> None:
    rng = np.random.default_rng(0)
    items = rng.standard_normal((200, 16)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    for vector in items[:5] + 0.1:
        rows, _ = find_best(Scans(items), vector, 7)
        exact = np.argsort(-(items.astype(np.float64) @ vector.astype(np.float64)), kind="stable")[:7]
        assert rows[0].tolist() == exact.tolist()


def clocked(watch: Watch, retriever: Retriever, encodings: Encodings, of: Task | None = None) -> dict[str, Any]:
    own = clock.Clock({CAPTIONS: captions()}, encodings, Start(2.0, 100_000_000), "cpu")
    ((name, told),) = own.clock(of or task(), retriever)
    assert name == retriever.name
    return told


def encodings(seconds: float = 0.003) -> Encodings:
    one = Encoding(np.full(clock.QUERIES, seconds), 0.5, 250_000_000, 50_000_000)
    return Encodings({CAPTIONS: one}, light=True)


def slow_answers(watch: Watch, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*given: Any) -> Any:
        answer = open_answer(*given)

        def one(n: int, text: str) -> Any:
            watch.now += seconds
            return answer(n, text)

        return one

    monkeypatch.setattr(clock, "open_answer", slow)


def test_a_query_by_vector_is_its_encoding_and_its_search(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_answers(watch, 0.001, monkeypatch)
    told = clocked(watch, Retriever("image", lambda: Dense(UNIT, UNIT), ("images",), ("embed_images",)), encodings())
    assert told["asks"] == [CAPTIONS]
    assert (told["encode_ms"], told["search_ms"], told["ms_per_query"], told["ms_p95"]) == (3.0, 1.0, 4.0, 4.0)
    assert told["cold_start_s"] == pytest.approx(2.0 + 0.5 + 0.001, abs=1e-3)
    assert (told["host_mb"], told["gpu_mb"]) == (250.0, 50.0)
    assert (told["vector_bytes"], told["posting_bytes"]) == (16.0, 0.0)


def test_a_query_by_words_waits_for_no_model_and_needs_none_in_memory(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_answers(watch, 0.002, monkeypatch)
    told = clocked(watch, Retriever("bm25", words, (CAPTIONS,), ("rank_bm25",)), encodings())
    assert (told["encode_ms"], told["ms_per_query"], told["cold_start_s"]) == (0.0, 2.0, 2.002)
    assert told["host_mb"] == pytest.approx(100.0, abs=0.1)
    assert told["gpu_mb"] == 0.0
    assert told["posting_bytes"] > 0


def test_what_is_fitted_for_a_query_is_counted(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_answers(watch, 0.001, monkeypatch)

    def fit() -> Dense:
        watch.now += 4 * 0.010
        return Dense(UNIT, UNIT)

    told = clocked(watch, Retriever("svm", fit, ("images",), ("embed_images",), fitted=True), encodings())
    assert told["search_ms"] == 11.0


def test_what_cannot_be_embedded_is_unknown_with_its_reason(watch: Watch) -> None:
    unknown = Encodings({}, {CAPTIONS: "a service"})
    told = clocked(watch, Retriever("image", lambda: Dense(UNIT, UNIT), ("images",), ("embed_images",)), unknown)
    assert told["why"] == "a service"
    assert "ms_per_query" not in told
    files = ModelCard.model_construct(joint=VectorsTower.model_construct(), image=None, text=None)
    service = ModelCard.model_construct(joint=EndpointTower.model_construct(), image=None, text=None)
    assert "from files" in explain_unread(files, ["text"])
    assert "none was sent" in explain_unread(service, ["image"])


def test_a_reranker_counts_its_own_time_beside_the_search(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_answers(watch, 0.001, monkeypatch)

    class Again:
        name: str = "again"
        retriever: str = "image"
        inputs: tuple[str, ...] = (CAPTIONS,)
        costs: tuple[str, ...] = ()
        loads: bool = False
        seen: ClassVar[list[int]] = []

        def scores(self, first: int, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
            watch.now += 0.005
            self.seen.append(rows.shape[1])
            return scores

    own = clock.Clock({CAPTIONS: captions()}, encodings(), Start(2.0, 0), "cpu")
    image = Retriever("image", lambda: Dense(UNIT, UNIT), ("images",), ("embed_images",))
    told = dict(own.clock(task(), image, [(Again(), 3)]))
    assert list(told) == ["image", "image_again"]
    assert told["image_again"]["search_ms"] == 6.0
    assert set(Again.seen) == {3}


def test_a_reranker_with_a_model_is_clocked_warm_and_its_loading_is_of_the_first_answer(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_answers(watch, 0.001, monkeypatch)
    monkeypatch.setattr(clock, "peak_host_bytes", lambda: 4_000_000_000)
    monkeypatch.setattr(clock, "peak_gpu_bytes", lambda: 3_000_000_000)

    class Model:
        name: str = "cross_encoder"
        retriever: str = "image"
        inputs: tuple[str, ...] = ("images",)
        costs: tuple[str, ...] = ()
        loads: bool = True
        asked = 0

        def scores(self, first: int, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
            watch.now += 7.0 if self.asked else 20.0
            self.asked += 1
            return scores

    own, model = clock.Clock({CAPTIONS: captions()}, encodings(), Start(2.0, 0), "cpu"), Model()
    image = Retriever("image", lambda: Dense(UNIT, UNIT), ("images",), ("embed_images",))
    told = dict(own.clock(task(), image, [(model, 3)]))["image_cross_encoder"]
    assert told["search_ms"] == 7001.0
    assert told["cold_start_s"] == pytest.approx(2.0 + 0.5 + 0.001 + 20.0)
    assert told["queries"] == 9  # which take over a minute
    assert model.asked == 1 + 1 + 9  # the first, one more unclocked, as it takes longer than a fast one's three
    assert (told["host_mb"], told["gpu_mb"]) == (4000.0, 3000.0)


@pytest.mark.parametrize(
    ("category", "inputs", "asks", "expected"),
    [
        ("t2i", ("images",), (), (CAPTIONS,)),
        ("i2t", ("captions_generated",), (), ("captions_generated",)),  # a picture asks as pictures are fed
        ("i2i", ("images", "captions_joined"), (), ("images", "captions_joined")),
        ("it2i", ("images",), ("classes",), ("classes",)),
    ],
)
def test_what_a_query_is_fed_as(
    category: Any, inputs: tuple[str, ...], asks: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    retriever = Retriever("one", lambda: Dense(UNIT, UNIT), inputs, (), asks=asks)
    assert list_asked(task(category).about, retriever) == expected


def test_the_first_pictures_wait_for_what_the_first_text_loaded_unless_that_needed_no_torch() -> None:
    text, picture = (Encoding(np.ones(1), seconds, 0, None) for seconds in (0.1, 4.0))
    assert Encodings({"a": text, "b": picture}, light=True).first_s(["a", "b"]) == pytest.approx(4.1)
    assert Encodings({"a": text, "b": picture}, light=False).first_s(["a", "b"]) == 4.0
    assert Encodings().first_s([]) == 0.0


def test_the_machine_is_named_with_a_digest_that_another_device_or_gpu_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    told = describe_machine("cpu-float32")
    assert list(told) == ["processor", "cores", "usable_cores", "gpu", "torch", "device", "threads", "digest"]
    assert told == describe_machine("cpu-float32")
    assert told["digest"] != describe_machine("cuda-bfloat16")["digest"]
    assert name_machine_of(told) == name_machine()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    assert describe_machine("cpu-float32")["digest"] != told["digest"]  # the same processor, another machine
    assert name_machine() == f"{name_machine_of(told)}, H100"


def test_a_process_knows_how_long_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0.0 < seconds_since_start() < 1e6

    class NoProc:
        def __init__(self, *_: object) -> None: ...
        def read_text(self, **_: object) -> str:
            raise OSError

    monkeypatch.setattr(costs, "Path", NoProc)
    assert seconds_since_start() > 0.0  # of a processor, where the kernel does not say


@pytest.mark.slow
def test_the_stage_clocks_every_retriever_that_rank_has(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built)
    monkeypatch.setenv(CHECKPOINT[1:], str(built / paths.trained(DATASET, MODEL) / "weights"))
    stage.main(DATASET, MODEL)
    record = json.loads(paths.cost("clock", DATASET, MODEL).read_text(encoding="utf-8"))
    found = record["tasks"]["caption_to_image"]
    assert {"image", "bm25_captions_and_generated", "hybrid_generated_rrf", "image_word_overlap"} <= found.keys()
    assert all("why" not in row for rows in record["tasks"].values() for row in rows.values())
    assert all(row["ms_per_query"] > 0 for rows in record["tasks"].values() for row in rows.values())
    assert found["image"]["encode_ms"] > 0 == found["bm25_captions"]["encode_ms"]
    assert record["tasks"]["category_search"]["exemplar_svm_and_text"]["asks"] == ["images", "classes"]
    assert not list(paths.cost("clock", DATASET, MODEL).parent.glob(f"*{CAPTIONER}*"))
    stage.main(DATASET, "words")
    pictures = json.loads(paths.cost("clock", DATASET, "words").read_text(encoding="utf-8"))["tasks"]
    assert "caption" in pictures["caption_to_caption"]
