"""Captions of a service: in order, each asked once, within the budget, whole after a kill."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from stages import caption as stage
from tests.service import Asked, Fault, Service, serving
from tests.tiny import jpegs, write_shards
from twinlens.config.captioners import CaptionerCard
from twinlens.core import endpoint, paths, tables
from twinlens.core.costs import Cost
from twinlens.core.errors import DataError, FetchError
from twinlens.inference.describe import Budget, Described, describe_pictures

COUNT = 12
KEY = "sk-very-secret-123"


def picture_of(asked: Asked) -> bytes:
    part = asked.body["messages"][-1]["content"][0]
    return b64decode(part["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))


class Seer:
    """Says which of the pictures it is shown."""

    def __init__(self, files: list[bytes]) -> None:
        self.files, self.usage, self.model = files, True, "seer-1"

    def __call__(self, asked: Asked) -> Any:
        jpeg = picture_of(asked)
        which = self.files.index(jpeg) if jpeg in self.files else "small"
        answer = {
            "model": self.model,
            "choices": [{"message": {"content": f" picture\n {which} "}, "finish_reason": "stop"}],
        }
        return answer | ({"usage": {"prompt_tokens": 1000, "completion_tokens": 10}} if self.usage else {})


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("SOME_KEY", KEY)
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture
def files() -> list[bytes]:
    return jpegs(COUNT)


@pytest.fixture
def rows(tmp_path: Path, files: list[bytes]) -> pl.DataFrame:
    return write_shards(files, tmp_path / "shards")


@pytest.fixture
def service(files: list[bytes]) -> Iterator[Service]:
    with serving(Seer(files)) as running:
        yield running


def card(service: Service, **more: Any) -> CaptionerCard:
    given = {"captioner": "endpoint", "url": service.url, "model": "seer", "prompt": "Describe.", "key": "SOME_KEY"}
    return CaptionerCard.model_validate(given | {"requests": {"concurrency": 3, "retries": 2}} | more)


def run(service: Service, tmp_path: Path, rows: pl.DataFrame, **more: Any) -> Described:
    return describe_pictures(card(service, **more), tmp_path / "shards", rows)


WANTED = [f"picture {n}" for n in range(COUNT)]


def test_captions_are_those_of_the_pictures_in_their_order(
    service: Service, tmp_path: Path, rows: pl.DataFrame
) -> None:
    found = run(service, tmp_path, rows, system="Be brief.", max_new_tokens=40)
    assert found.texts == WANTED
    body = service.asked[0].body
    assert service.asked[0].path == "/v1/chat/completions"
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("seer", 40, 0)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["messages"][1]["content"][1] == {"type": "text", "text": "Describe."}
    assert found.tokens == COUNT * 1010
    assert found.money is None
    assert found.seconds > 0


def test_every_answer_is_kept_with_the_name_of_its_model_and_asked_once(
    service: Service, tmp_path: Path, rows: pl.DataFrame
) -> None:
    found = run(service, tmp_path, rows)
    table = tables.conform(found.table(rows), tables.ANSWERS, "answers").to_pydict()
    assert table["image_id"] == rows["image_id"].to_list()
    assert set(table["model"]) == {"seer-1"}
    assert set(table["input_tokens"]) == {1000}
    assert run(service, tmp_path, rows.reverse()).texts == WANTED[::-1]
    assert run(service, tmp_path, rows[3:5]).texts == WANTED[3:5]
    assert len(service.asked) == COUNT
    run(service, tmp_path, rows[:2], prompt="Say more.")
    assert len(service.asked) == COUNT + 2


def test_pictures_of_the_same_bytes_are_asked_about_once(service: Service, tmp_path: Path) -> None:
    twice = write_shards([jpegs(1)[0]] * 3, tmp_path / "shards")
    assert run(service, tmp_path, twice).texts == ["picture 0"] * 3
    assert len(service.asked) == 1


def test_more_of_the_body_is_the_cards_to_say(service: Service, tmp_path: Path, rows: pl.DataFrame) -> None:
    run(service, tmp_path, rows[:1], extra={"max_completion_tokens": 9, "max_tokens": None})
    assert service.asked[0].body["max_completion_tokens"] == 9
    assert "max_tokens" not in service.asked[0].body


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(status=500),
        Fault(body=b"no json"),
        Fault(body=b'{"choices": []}'),
        Fault(cut_after=9),
        Fault(hangs_up=True),
    ],
)
def test_faults_that_pass_lose_no_caption(fault: Fault, service: Service, tmp_path: Path, rows: pl.DataFrame) -> None:
    service.faults = [fault, Fault(), fault, Fault(), fault]
    requests = {"concurrency": 3, "retries": 3}  # one request may meet all three
    assert run(service, tmp_path, rows, requests=requests).texts == WANTED
    assert len(service.asked) == COUNT + 3


def test_what_was_answered_before_a_refusal_is_kept(service: Service, tmp_path: Path, rows: pl.DataFrame) -> None:
    service.faults = [*[Fault()] * 5, Fault(status=401, body=KEY.encode())]
    with pytest.raises(FetchError, match="status 401: \\*\\*\\*"):
        run(service, tmp_path, rows)
    before = len(service.asked) - 1
    assert before >= 5
    assert run(service, tmp_path, rows).texts == WANTED
    assert len(service.asked) == COUNT + 1
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in content for content in written)


def test_the_stage_writes_captions_answers_and_costs(
    service: Service, tmp_path: Path, rows: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data/resized").mkdir(parents=True)
    (tmp_path / "shards").rename(tmp_path / "data/resized/some")
    monkeypatch.chdir(tmp_path)
    cost, draft = Cost(), tmp_path / "draft"
    prices = {"input_price": 1.0, "output_price": 100.0}
    stage._ask_service(card(service, **prices), "some", {"captions": rows[2:], "validation": rows[:2]}, draft, cost)
    for name, wanted in (("captions", WANTED[2:]), ("validation", WANTED[:2])):
        assert tables.read_table(draft / f"{name}.parquet", tables.GENERATED)["text"].to_list() == wanted
    assert len(tables.read_table(draft / "answers.parquet", tables.ANSWERS)) == COUNT
    told = cost.parts["caption"]
    assert (told["items"], told["tokens"], told["money"]) == (COUNT, COUNT * 1010, 0.024)


CHILD = """
import sys
from pathlib import Path
import polars as pl
from twinlens.config.captioners import CaptionerCard
from twinlens.inference.describe import describe_pictures
card = CaptionerCard.model_validate_json(sys.argv[1])
describe_pictures(card, Path(sys.argv[2]), pl.read_parquet(sys.argv[3]))
"""


def test_a_killed_run_goes_on_where_it_was(
    service: Service, tmp_path: Path, rows: pl.DataFrame, files: list[bytes]
) -> None:
    seer = service.answer

    def silent_on_the_last(asked: Asked) -> Any:
        if files.index(picture_of(asked)) >= 8:
            service.ended.wait(20)
        return seer(asked)

    service.answer = silent_on_the_last
    rows.write_parquet(tmp_path / "rows.parquet")
    given = card(service).model_dump_json(exclude_none=True)
    command = [sys.executable, "-c", CHILD, given, str(tmp_path / "shards"), str(tmp_path / "rows.parquet")]
    child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    log = None
    while child.poll() is None:
        log = next(iter((paths.scratch() / "answers").glob("*/answers.jsonl")), None)
        if log is not None and log.read_bytes().count(b"\n") >= 8:
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert log is not None
    log.write_bytes(log.read_bytes() + b'{"sha256": "half a li')
    service.answer = seer
    answered, asked = 8, len(service.asked)
    assert run(service, tmp_path, rows).texts == WANTED
    assert len(service.asked) == asked + COUNT - answered
    assert all(json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())


def test_the_budget_is_not_passed_and_what_was_paid_for_is_kept(
    service: Service, tmp_path: Path, rows: pl.DataFrame
) -> None:
    prices = {"input_price": 1.0, "output_price": 100.0}  # 0.002 an answer
    with pytest.raises(DataError, match=r"max_cost is 0\.011, 0\.0\d+ of it are spent"):
        run(service, tmp_path, rows, max_cost=0.011, **prices)
    assert len(service.asked) == 5
    with pytest.raises(DataError, match=r"max_cost is 0\.0111"):
        run(service, tmp_path, rows, max_cost=0.0111, **prices)
    assert len(service.asked) == 5
    found = run(service, tmp_path, rows, max_cost=0.024001, **prices)
    assert found.texts == WANTED
    assert len(service.asked) == COUNT
    assert found.money == pytest.approx(0.002 * COUNT)


def test_without_counts_of_tokens_a_budget_cannot_be_kept(service: Service, tmp_path: Path, rows: pl.DataFrame) -> None:
    assert isinstance(service.answer, Seer)
    service.answer.usage = False
    assert run(service, tmp_path, rows[:1]).tokens == 0
    with pytest.raises(DataError, match="does not say how many tokens"):
        run(service, tmp_path, rows, max_cost=1.0, input_price=1.0, output_price=1.0)


def test_a_budget_lets_the_first_go_alone() -> None:
    budget = Budget(1.0)
    budget.reserve()
    budget.settle(0.4)
    budget.reserve()
    with pytest.raises(DataError, match=r"0\.4 of it are spent and 1 requests on their way"):
        budget.reserve()
    budget.settle(None)
    budget.reserve()


def test_a_picture_that_is_refused_as_too_large_is_made_smaller(service: Service, tmp_path: Path) -> None:
    large = jpegs(1, width=640, height=320)
    rows = write_shards(large, tmp_path / "shards")
    service.faults = [Fault(status=413), Fault(status=400, body=b"image too large")]
    found = run(service, tmp_path, rows)
    assert found.answers[0].side_px == 160
    assert Image.open(io.BytesIO(picture_of(service.asked[2]))).size == (160, 80)
    service.faults = [Fault(status=413)] * 9
    with pytest.raises(FetchError, match="status 413"):
        run(service, tmp_path, rows, prompt="Again.")


def test_cut_captions_and_a_change_of_model_are_told(
    service: Service, tmp_path: Path, rows: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    seer = service.answer

    def cut(asked: Asked) -> Any:
        answer = seer(asked)
        answer["choices"][0]["finish_reason"] = "length"
        return answer | {"model": f"seer-{len(service.asked) // 7}"}

    service.answer = cut
    caplog.set_level(logging.WARNING)
    run(service, tmp_path, rows)
    assert "12 of 12 captions were cut at max_new_tokens, 20" in caplog.text
    assert "captions are of 2 models, by the service's own word: seer-0, seer-1" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": None}, "needs `url`"),
        ({"prompt": None}, "needs `prompt`"),
        ({"max_cost": 1.0}, "cannot be kept without `input_price`"),
        ({"hub": "some/model"}, "has no `hub`"),
        ({"url": "localhost:8000"}, "write an address such as"),
        ({"url": "http://me:secret@host/v1"}, "a key stands in the address"),
        ({"url": "http://host/v1?api_key=secret"}, "a key stands in the address"),
        ({"key": "sk-secret"}, "never the key itself"),
        ({"captioner": "blip", "hub": "some/model"}, "goes with `captioner: endpoint`, and only with it"),
    ],
)
def test_cards_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    given = {"captioner": "endpoint", "url": "http://localhost:8000", "model": "m", "prompt": "p"} | change
    with pytest.raises(ValueError, match=message):
        CaptionerCard.model_validate({name: value for name, value in given.items() if value is not None})
