"""Progress where there is no terminal: a line now and then, one at the end, none for what is done in a moment."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest

from twinlens.core import progress
from twinlens.core.progress import Progress


class Terminal(io.StringIO):
    """Where bars are drawn."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="twinlens")
    return caplog


def work(clock: Clock, seconds: float, each: float, total: int = 1000, done: int = 0, n: int = 32) -> None:
    """Work for so many seconds, `n` pieces at a time."""
    with Progress("embed images", total=total, unit="img", done=done) as bar:
        for _ in range(round(seconds / each)):
            clock.now += each
            bar.add(n, loss="0.5")


def test_short_work_prints_nothing(
    clock: Clock, lines: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    work(clock, seconds=1.5, each=0.5)
    assert lines.messages == []
    assert capsys.readouterr().err == ""


def test_work_worth_a_line_prints_one_when_it_is_done(clock: Clock, lines: pytest.LogCaptureFixture) -> None:
    work(clock, seconds=4, each=0.5)
    assert lines.messages == ["embed images: 256 in 4.0 s (64.0 img/s)"]


def test_long_work_prints_a_line_now_and_then(
    clock: Clock,
    lines: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 3.0)
    work(clock, seconds=10, each=1, total=12_800, n=1280)
    assert lines.messages == [
        "embed images: 3,840 of 12,800 (1,280.0 img/s, loss 0.5), 00:07 left",
        "embed images: 7,680 of 12,800 (1,280.0 img/s, loss 0.5), 00:04 left",
        "embed images: 11,520 of 12,800 (1,280.0 img/s, loss 0.5), 00:01 left",
        "embed images: 12,800 in 10.0 s (1,280.0 img/s)",
    ]
    assert capsys.readouterr().err == ""


def test_lines_do_not_come_closer_than_they_should_when_the_steps_are_short(
    clock: Clock, lines: pytest.LogCaptureFixture
) -> None:
    work(clock, seconds=40, each=0.01, total=4000, n=1)
    assert len(lines.messages) == 2 + 1  # one in fifteen seconds, and the last


def test_with_the_real_clock_too(lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with Progress("rank", total=3, unit="query") as bar:
        for _ in range(3):
            bar.add(1)
    assert [line.split(" (")[0] for line in lines.messages] == [f"rank: {n} of 3" for n in (1, 2, 3)]
    assert all(re.search(r"\([\d,.]+ query/s\)(, 00:00 left)?$", line) for line in lines.messages)


def test_what_an_earlier_run_did_counts_as_done_but_not_as_speed(clock: Clock, lines: pytest.LogCaptureFixture) -> None:
    work(clock, seconds=16, each=1, total=1000, done=900, n=5)
    assert lines.messages == [
        "embed images: 975 of 1,000 (5.0 img/s, loss 0.5), 00:05 left",
        "embed images: 980 in 16.0 s (5.0 img/s)",
    ]


def test_slow_steps_are_told_in_seconds_each_with_the_time_that_is_left(
    clock: Clock, lines: pytest.LogCaptureFixture
) -> None:
    with Progress("train", total=188, unit="step") as bar:
        for _ in range(3):
            clock.now += 10.3
            bar.add(1)
    assert lines.messages == [
        "train: 2 of 188 (10.3 s/step), 31:55 left",
        "train: 3 in 30.9 s (10.3 s/step)",
    ]


def test_where_nothing_says_how_much_there_is_no_time_left_is_told(
    clock: Clock, lines: pytest.LogCaptureFixture
) -> None:
    with Progress("words.vec", total=0, unit="B") as bar:
        clock.now += 20
        bar.add(5)
    assert lines.messages[0] == "words.vec: 5 of 0 (4.0 s/B)"


def test_when_an_earlier_run_did_everything_nothing_is_printed(clock: Clock, lines: pytest.LogCaptureFixture) -> None:
    with Progress("embed images", total=1000, done=1000):
        clock.now += 60
    assert lines.messages == []


def test_work_that_fails_does_not_say_that_it_is_done(clock: Clock, lines: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError), Progress("embed images", total=1000) as bar:
        bar.add(10)
        clock.now += 10
        raise ValueError
    assert lines.messages == []


def test_work_that_takes_no_time_has_a_rate(clock: Clock) -> None:
    with Progress("embed images", total=10) as bar:
        bar.add(10)
        assert bar.rate().endswith(" it/s")


def test_on_a_terminal_there_is_a_bar_and_no_lines_but_the_last(
    clock: Clock, lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 1.0)
    work(clock, seconds=10, each=1, total=320, n=32)
    assert "embed images:   0%" in screen.getvalue()
    assert lines.messages == ["embed images: 320 in 10.0 s (32.0 img/s)"]


def test_what_was_done_before_counts_for_no_rate(
    clock: Clock, lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Progress("resize", total=1000, unit="img") as bar:
        bar.skip(600)
        clock.now += 4
        bar.add(100)
        assert (bar.count, bar.start_count) == (700, 600)
    assert "(25.0 img/s)" in lines.messages[0]
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("resize", total=1000, unit="img") as bar:
        bar.skip(600)
        assert (bar.bar.n, bar.bar.initial) == (600, 600)
