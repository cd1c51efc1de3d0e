"""Captions of a service: several requests at a time, every answer kept as it comes, within a budget."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from twinlens.config.captioners import CaptionerCard
from twinlens.core.endpoint import Stopwatch, ask_concurrently
from twinlens.core.errors import DataError
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch, fingerprint
from twinlens.core.shards import iter_pixels
from twinlens.models.captioners.endpoint import Answer, EndpointCaptioner, get_settings

log = logging.getLogger("twinlens")

FILE = "answers.jsonl"
SAYS = {"url", "model", "prompt", "system", "extra", "max_new_tokens"}  # of the card: what decides an answer
MILLION = 1e6


@dataclass(frozen=True)
class Described:
    """Answers on some pictures, in their order, and what they took, whenever and in whichever run."""

    answers: list[Answer]
    seconds: float
    tokens: int
    money: float | None  # None: the card has no prices

    @property
    def texts(self) -> list[str]:
        """The captions."""
        return [answer.text for answer in self.answers]

    def table(self, pictures: pl.DataFrame) -> pl.DataFrame:
        """Table ANSWERS."""
        said = [{name: value for name, value in asdict(answer).items() if name != "text"} for answer in self.answers]
        kinds = {"model": pl.String, "input_tokens": pl.Int64, "output_tokens": pl.Int64, "cut": pl.Boolean}
        table = pl.DataFrame(said, schema={**kinds, "side_px": pl.Int32})
        return table.insert_column(0, pictures["image_id"])


def describe_pictures(card: CaptionerCard, shards: Path, pictures: pl.DataFrame) -> Described:
    """Describe pictures by a service; those it has described before, in whichever run, are not sent again.

    Args:
        card: with `captioner: endpoint`.
        shards: folder of the `resize` stage.
        pictures: `image_id`, `shard`, `row`, `sha256`.

    Raises:
        FetchError: the service refuses or does not answer.
        DataError: the budget does not allow another request.
    """
    with Scratch("answers", fingerprint(card=card.model_dump(mode="json", include=SAYS))) as scratch:
        kept = _AnswerLog(scratch.folder / FILE)
        missing = pictures.filter(~pl.col("sha256").is_in(list(kept.answers))).unique(
            "sha256", keep="first", maintain_order=True
        )
        if len(missing):
            _ask(card, kept, shards, missing, pictures["sha256"].n_unique())
        answers = [kept.answers[digest] for digest in pictures["sha256"]]
        mine = {digest: kept.answers[digest] for digest in pictures["sha256"]}
        seconds = sum(kept.seconds[digest] for digest in mine)
    _tell(card, answers)
    tokens = sum((one.input_tokens or 0) + (one.output_tokens or 0) for one in mine.values())
    money = None if card.input_price is None else sum(compute_cost(card, one) or 0.0 for one in mine.values())
    return Described(answers, seconds, tokens, money)


def compute_cost(card: CaptionerCard, answer: Answer) -> float | None:
    """Compute the price of an answer, in the card's money; None where tokens or prices are not known."""
    known = (answer.input_tokens, answer.output_tokens, card.input_price, card.output_price)
    if any(value is None for value in known):
        return None
    assert answer.input_tokens is not None and answer.output_tokens is not None
    assert card.input_price is not None and card.output_price is not None
    return (answer.input_tokens * card.input_price + answer.output_tokens * card.output_price) / MILLION


class Budget:
    """A budget that several requests share: none is sent that may pass it, by the dearest answer so far.

    The first request goes alone, as nothing is known of what one costs.
    """

    def __init__(self, limit: float | None, spent: float = 0.0, dearest: float | None = None) -> None:
        self.limit, self.spent, self.dearest = limit, spent, dearest
        self._flying, self._changed = 0, threading.Condition()

    def reserve(self) -> None:
        """Wait for room and take it.

        Raises:
            DataError: there is none left.
        """
        with self._changed:
            while self.limit is not None and self.dearest is None and self._flying:
                self._changed.wait()
            if self.limit is not None and self.spent + (self._flying + 1) * (self.dearest or 0.0) > self.limit:
                raise DataError(
                    f"max_cost is {self.limit:g}, {self.spent:.4g} of it are spent and {self._flying} requests on "
                    f"their way, each at up to {self.dearest or 0.0:.3g}: answers are kept; raise `max_cost` to go on"
                )
            self._flying += 1

    def settle(self, cost: float | None) -> None:
        """Give the room back, and count what the answer cost; None where there was no answer."""
        with self._changed:
            self._flying -= 1
            if cost is not None:
                self.spent, self.dearest = self.spent + cost, max(self.dearest or 0.0, cost)
            self._changed.notify_all()


class _AnswerLog:
    """Answers by the digest of their picture, a line each; a half-written last line is cut off."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self.answers: dict[str, Answer] = {}
        self.seconds: dict[str, float] = {}
        if path.exists():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                with path.open("r+b") as file:
                    file.truncate(len(whole))
            for line in whole.decode("utf-8").splitlines():
                self._take(json.loads(line))

    def add(self, digest: str, answer: Answer, seconds: float) -> None:
        line = {"sha256": digest, "seconds": round(seconds, 6)} | asdict(answer)
        with self._lock:
            with self.path.open("ab") as file:
                file.write((json.dumps(line) + "\n").encode())
            self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        digest, seconds = line.pop("sha256"), line.pop("seconds")
        self.answers[digest], self.seconds[digest] = Answer(**line), seconds


def _ask(card: CaptionerCard, kept: _AnswerLog, shards: Path, missing: pl.DataFrame, total: int) -> None:
    captioner, watch = EndpointCaptioner(card), Stopwatch()
    costs = [cost for one in kept.answers.values() if (cost := compute_cost(card, one)) is not None]
    budget = Budget(card.max_cost, sum(costs), max(costs, default=None))

    def tasks() -> Iterator[tuple[str, bytes]]:
        pictures = zip(missing["sha256"], iter_pixels(shards, missing), strict=True)
        return ((digest, jpeg) for digest, (_, jpeg) in pictures)

    def ask(task: tuple[str, bytes]) -> None:
        digest, jpeg = task
        budget.reserve()
        cost = None
        try:
            answer = captioner.describe(jpeg)
            kept.add(digest, answer, watch.lap())
            cost = compute_cost(card, answer)
        finally:
            budget.settle(cost)
        if cost is None and card.max_cost is not None:
            raise DataError("the service does not say how many tokens it took, so that `max_cost` cannot be kept")

    with Progress("caption", total=total, unit="img", done=total - len(missing)) as bar:
        for _ in ask_concurrently(tasks(), ask, get_settings(card).concurrency):
            bar.add(1)


def _tell(card: CaptionerCard, answers: list[Answer]) -> None:
    if cut := sum(one.cut for one in answers):
        log.warning(
            "%s of %s captions were cut at max_new_tokens, %d: raise it, or ask for shorter ones",
            f"{cut:,}",
            f"{len(answers):,}",
            card.max_new_tokens,
        )
    if len(models := sorted({one.model for one in answers})) > 1:
        log.warning("captions are of %d models, by the service's own word: %s", len(models), ", ".join(models))
    if empty := sum(not one.text for one in answers):
        log.warning("%s of %s captions are empty", f"{empty:,}", f"{len(answers):,}")
