"""Vectors of a service: each interface as it is, each input asked once, nothing lost, no other width half way."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.service import Asked, Fault, Service, serving
from tests.tiny import CPU, jpegs, write_shards
from twinlens.config.models import EndpointTower, ModelCard
from twinlens.config.params import ComputeParams
from twinlens.core import endpoint
from twinlens.core.costs import Cost
from twinlens.core.errors import DataError, FetchError
from twinlens.core.vectors import read_vectors
from twinlens.indexing.manifest import Manifest
from twinlens.indexing.query_encoder import QueryEncoder
from twinlens.inference.jobs import make_job
from twinlens.inference.tower import TowerJob
from twinlens.inference.vector_log import VectorLog
from twinlens.models import encoders

COUNT, DIM = 10, 6
COMPUTE = ComputeParams(device="cpu", decode_threads=1, image_batch=None, text_batch=None)
TEXTS = [f"a text about {n}" for n in range(COUNT)]
KEY = "sk-very-secret-123"


def vector(content: bytes, dim: int = DIM) -> list[float]:
    """What the service makes of a text or a picture."""
    seed = int.from_bytes(sha256(content).digest()[:4], "little")
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32).astype(float).tolist()


def unit(content: bytes) -> np.ndarray:
    row = np.array(vector(content), dtype=np.float32)
    return row / np.linalg.norm(row)


def contents(body: dict[str, Any]) -> list[bytes]:
    """What a request is about, by whichever interface."""

    def picture(uri: str) -> bytes:
        return b64decode(uri.rpartition(",")[2])

    if "texts" in body:
        return [text.encode() for text in body["texts"]]
    if "images" in body:
        return [picture(uri) for uri in body["images"]]
    if "messages" in body:
        return [picture(part["image_url"]["url"]) for part in body["messages"][0]["content"]]
    found = []
    for one in body.get("input", body.get("inputs", [])):
        part = one["content"][0] if isinstance(one, dict) and "content" in one else one
        if isinstance(part, str):
            found.append(part.encode())
        elif "text" in part:
            found.append(part["text"].encode())
        else:
            found.append(picture(part.get("image_base64") or part["image"]))
    return found


def answer(asked: Asked) -> Any:
    body = asked.body
    rows = [vector(one, body.get("dimensions") or body.get("output_dimension") or DIM) for one in contents(body)]
    if asked.path == "/v2/embed":
        return {"embeddings": {"float": rows}, "meta": {"billed_units": {"input_tokens": 7 * len(rows)}}}
    data = [{"index": place, "embedding": row} for place, row in enumerate(rows)]
    return {"data": data[::-1], "usage": {"total_tokens": 7 * len(rows)}}  # in any order: `index` says which


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("SOME_KEY", KEY)
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(answer) as running:
        yield running


def tower(service: Service, **more: Any) -> EndpointTower:
    requests = {"texts": 3, "concurrency": 2, "retries": 1} | more.pop("requests", {})
    given = {"endpoint": service.url, "model": "some-multimodal-model", "key": "SOME_KEY", "requests": requests}
    return EndpointTower.model_validate(given | more)


def job(service: Service, cost: Cost | None = None, **more: Any) -> TowerJob:
    card = tower(service, **more)
    return make_job(card, encoders.locate(card), CPU, COMPUTE, cost or Cost())


def table(texts: list[str]) -> pl.DataFrame:
    ids = [f"i{n}" for n in range(len(texts))]
    return pl.DataFrame({"id": [f"{one}#0" for one in ids], "image_id": ids, "text": texts})


def embed(done: TowerJob, texts: list[str], out: Path) -> np.ndarray:
    out.mkdir(exist_ok=True)
    done.texts("captions", table(texts), out)
    return np.asarray(read_vectors(out, "captions").rows)


@pytest.mark.parametrize(
    ("api", "path"),
    [
        ("openai", "/v1/embeddings"),
        ("vllm", "/v1/embeddings"),
        ("jina", "/v1/embeddings"),
        ("cohere", "/v2/embed"),
        ("voyage", "/v1/multimodalembeddings"),
    ],
)
def test_texts_by_each_interface(api: str, path: str, service: Service, tmp_path: Path) -> None:
    found = embed(job(service, api=api), TEXTS, tmp_path / "out")
    assert np.abs(found - np.stack([unit(text.encode()) for text in TEXTS])).max() < 1e-6
    assert {one.path for one in service.asked} == {path}
    assert {one.authorization for one in service.asked} == {f"Bearer {KEY}"}
    assert sorted(len(contents(one.body)) for one in service.asked) == [1, 3, 3, 3]


@pytest.mark.parametrize("api", ["vllm", "jina", "cohere", "voyage"])
def test_pictures_by_each_interface_that_takes_them(api: str, service: Service, tmp_path: Path) -> None:
    files = jpegs(4)
    pool = write_shards([*files, files[0]], tmp_path / "shards")
    done = job(service, api=api)
    (tmp_path / "out").mkdir()
    done.pictures("images", tmp_path / "shards", pool, tmp_path / "out")
    found = read_vectors(tmp_path / "out", "images")
    assert found.ids == pool["image_id"].to_list()
    assert np.abs(found.rows - np.stack([unit(file) for file in [*files, files[0]]])).max() < 1e-6
    assert len(service.asked) == 4  # one a request, and none twice


def test_what_the_card_says_reaches_the_service(service: Service, tmp_path: Path) -> None:
    embed(
        job(service, api="cohere", dimensions=4, input_type="search_document", prompt="title: "), ["a"], tmp_path / "a"
    )
    body = service.asked[0].body
    assert (body["texts"], body["input_type"], body["output_dimension"]) == (["title: a"], "search_document", 4)
    embed(job(service, api="voyage", model="voyage-3", input_type="query"), ["a"], tmp_path / "b")
    assert service.asked[1].path == "/v1/embeddings"
    assert service.asked[1].body["input_type"] == "query"
    assert embed(job(service, dimensions=4), ["a"], tmp_path / "c").shape == (1, 4)


def test_a_text_is_asked_once_wherever_it_stands_and_whenever(service: Service, tmp_path: Path) -> None:
    wanted = embed(job(service), TEXTS, tmp_path / "a")
    asked = len(service.asked)
    assert np.array_equal(embed(job(service), TEXTS[::-1], tmp_path / "b"), wanted[::-1])
    assert len(service.asked) == asked
    embed(job(service, requests={"texts": 1, "concurrency": 1}, price=1.0), [*TEXTS, "new", "new"], tmp_path / "c")
    assert len(service.asked) == asked + 1
    embed(job(service, model="another-multimodal"), TEXTS[:1], tmp_path / "d")
    assert len(service.asked) == asked + 2


FAULTS = {
    "busy": Fault(status=429, headers={"Retry-After": "0"}),
    "broken": Fault(status=500),
    "garbage": Fault(body=b"no json"),
    "half an answer": Fault(cut_after=30),
    "too few": Fault(body=b'{"data": [{"index": 0, "embedding": [1.0]}]}'),
    "the same twice": Fault(body=b'{"data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}]}'),
    "no numbers": Fault(body=b'{"data": [' + b", ".join([b'{"embedding": ["a"]}'] * 3) + b"]}"),
    "nan": Fault(body=b'{"data": [' + b", ".join([b'{"embedding": [NaN]}'] * 3) + b"]}"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_pass_change_no_vector(fault: str, service: Service, tmp_path: Path) -> None:
    service.faults = [FAULTS[fault]]
    found = embed(job(service), TEXTS[:9], tmp_path / "out")
    assert np.abs(found - np.stack([unit(text.encode()) for text in TEXTS[:9]])).max() < 1e-6
    assert len(service.asked) == 4


def test_what_was_answered_before_a_failure_is_not_asked_again(service: Service, tmp_path: Path) -> None:
    service.faults = [Fault(), Fault(), Fault(status=401, body=KEY.encode())]
    with pytest.raises(FetchError, match=r"status 401: \*\*\*"):
        embed(job(service, requests={"concurrency": 1}), TEXTS, tmp_path / "out")
    assert len(service.asked) == 3
    found = embed(job(service), TEXTS, tmp_path / "out")
    assert len(service.asked) == 5
    assert np.abs(found - np.stack([unit(text.encode()) for text in TEXTS])).max() < 1e-6
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in content for content in written)


def test_other_dimensions_half_way_are_an_error(service: Service, tmp_path: Path) -> None:
    embed(job(service), TEXTS[:3], tmp_path / "a")
    service.answer = lambda asked: {"data": [{"embedding": vector(one, 4)} for one in contents(asked.body)]}
    with pytest.raises(DataError, match="the service gave 4 dimensions after 3 of 6"):
        embed(job(service), TEXTS, tmp_path / "b")


def test_an_answer_of_uneven_vectors_is_an_error(service: Service, tmp_path: Path) -> None:
    service.answer = lambda asked: {"data": [{"embedding": [1.0] * (n + 1)} for n in range(len(asked.body["input"]))]}
    with pytest.raises(DataError, match=r"vectors of other lengths: \[1, 2, 3\]"):
        embed(job(service), TEXTS, tmp_path / "out")


def test_the_cost_is_told_in_tokens_and_money_also_by_a_run_that_went_on(service: Service, tmp_path: Path) -> None:
    service.faults = [Fault(), Fault(status=401)]
    with pytest.raises(FetchError):
        embed(job(service, requests={"concurrency": 1}), TEXTS, tmp_path / "out")
    cost = Cost()
    embed(job(service, cost, price=2.0), TEXTS, tmp_path / "out")
    assert cost.parts["captions"]["tokens"] == 7 * COUNT
    assert cost.parts["captions"]["money"] == pytest.approx(2.0 * 7 * COUNT / 1e6, abs=5e-4)
    assert cost.parts["captions"]["dim"] == DIM


def test_a_query_of_words_or_of_a_picture_asks_the_service(service: Service) -> None:
    card = ModelCard(joint=tower(service, api="cohere"))
    towers = QueryEncoder(card, Manifest("key", "scenes", "some", "none", 1, {}, {}, {}), "cpu", "")
    vars(towers)["_weights"] = {"joint": Path()}
    assert towers.reads_text
    assert towers.reads_pictures
    found, notes = towers.text("two dogs")
    assert np.abs(found - unit(b"two dogs")).max() < 1e-6
    assert not notes
    file = jpegs(1)[0]
    assert np.abs(towers.picture(file) - unit(file)).max() < 1e-6


# ------------------------------------------------------------------ the log


def test_a_half_written_end_of_the_log_is_cut_off(tmp_path: Path) -> None:
    log = VectorLog(tmp_path)
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    log.add(["a", "b"], rows[:2], tokens=3)
    log.add(["c"], rows[2:3], tokens=4)
    for name, more in (("rows.bin", b"\0" * 7), ("keys.txt", b"half"), ("requests.jsonl", b'{"fir')):
        with (tmp_path / name).open("ab") as file:
            file.write(more)
    again = VectorLog(tmp_path)
    assert "c" in again
    assert "half" not in again
    again.add(["d"], rows[3:], tokens=5)
    last = VectorLog(tmp_path)
    assert np.array_equal(last.take(["d", "a", "c", "b"]), rows[[3, 0, 2, 1]])
    assert last.total({"a", "d"}) == {"tokens": 8.0}


def test_keys_without_their_rows_are_forgotten(tmp_path: Path) -> None:
    log = VectorLog(tmp_path)
    log.add(["a", "b"], np.ones((2, 3), dtype=np.float32))
    (tmp_path / "rows.bin").write_bytes(b"\0" * 13)
    again = VectorLog(tmp_path)
    assert "a" in again
    assert "b" not in again
    assert (tmp_path / "rows.bin").stat().st_size == 12


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"image": {"endpoint": "http://h", "model": "m"}}, "takes texts only: name it as `text:`"),
        ({"joint": {"endpoint": "http://h", "model": "voyage-3", "api": "voyage"}}, "takes texts only"),
        ({"text": {"endpoint": "http://h", "model": "m", "key": "sk-secret"}}, "never the key itself"),
        ({"text": {"endpoint": "ftp://h", "model": "m"}}, "write an address such as"),
        ({"text": {"endpoint": "http://h", "model": "m", "requests": {"retries": -1}}}, "greater than or equal to 0"),
    ],
)
def test_cards_that_cannot_be_are_refused(card: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelCard.model_validate(card)
