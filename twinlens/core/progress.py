"""Progress bars on a terminal; a line now and then where there is none (CI, log files)."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

log = logging.getLogger("twinlens")

LINE_EVERY_S = 15.0  # where standard error is no terminal
WORTH_A_LINE_S = 2.0  # what was done faster is not worth one


class Progress:
    """`with Progress("embed images", total=5000, unit="img") as bar: bar.add(32)`."""

    def __init__(self, what: str, total: int, unit: str = "it", done: int = 0, scale: bool = False) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.count = self.start_count = done
        self.started = self.last_line = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.shown = self.figures = ""
        self.bar = tqdm(
            desc=what, total=total, unit=unit, unit_scale=scale, initial=done, disable=not self.terminal, leave=False
        )

    def add(self, n: int, **figures: float | str) -> None:
        """Count `n` more as done; `figures` (a loss, say) are shown beside the rate."""
        self.count += n
        self.bar.update(n)
        if figures:
            self.bar.set_postfix(figures, refresh=False)
            self.figures = "".join(f", {name} {value}" for name, value in figures.items())
        now = time.monotonic()
        if not self.terminal and now - self.last_line >= LINE_EVERY_S:
            self.last_line = now
            done, total = f"{self.count:,}", f"{self.total:,}"
            log.info("%s: %s of %s (%s%s)%s", self.what, done, total, self.rate(), self.figures, self._left())

    def skip(self, n: int) -> None:
        """Count `n` as done before, which no rate counts."""
        self.count += n
        self.start_count += n
        if self.terminal:
            self.bar.initial += n
        self.bar.update(n)

    def show(self, what: str) -> None:
        """Show beside the count what is being done, on a terminal; elsewhere a line where it is something else now."""
        if self.terminal:
            self.bar.set_postfix_str(what, refresh=True)
        elif what and what != self.shown:
            log.info("%s: %s of %s, %s", self.what, f"{self.count:,}", f"{self.total:,}", what)
        self.shown = what

    def rate(self) -> str:
        """The pace since the start, in words: pieces a second, or seconds a piece where that is more than one."""
        elapsed, done = max(time.monotonic() - self.started, 1e-9), self.count - self.start_count
        return (
            f"{done / elapsed:,.1f} {self.unit}/s"
            if done >= elapsed or not done
            else f"{elapsed / done:,.1f} s/{self.unit}"
        )

    def _left(self) -> str:
        """Remaining time at this rate, in words; empty where it cannot be known."""
        done = self.count - self.start_count
        if not done or self.total <= self.count:
            return ""
        seconds = (self.total - self.count) * (time.monotonic() - self.started) / done
        return f", {tqdm.format_interval(seconds)} left"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        elapsed = time.monotonic() - self.started
        if kind is None and self.count > self.start_count and elapsed >= WORTH_A_LINE_S:
            log.info("%s: %s in %.1f s (%s)", self.what, f"{self.count:,}", elapsed, self.rate())
