"""Word vectors from a text file: read once, block by block, then mapped into memory.

A line is a word and its numbers, separated by blanks. fastText's .vec begins with a line of two
counts, GloVe's .txt does not; GloVe also has words with blanks in them. A file of two million words
with 300 numbers each is several gigabytes of text: reading it takes a minute or so and holds one
block at a time. What was read is kept in the scratch folder under the file's digest, so that the next
process maps it instead and only the pages of the words it meets are loaded.
"""

from __future__ import annotations

import gzip
import io
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
import polars as pl
from jaxtyping import Float32

from twinlens.core.code import code_digest
from twinlens.core.errors import DataError
from twinlens.core.hashing import recall_digest
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch, fingerprint

log = logging.getLogger("twinlens")

BLOCK_BYTES = 4 << 20  # of text, held at once
PARSED = "parsed"
LARGEST = float(np.finfo(np.float32).max)
OTHER_FORMATS = {
    b"PK\x03\x04": "is a zip archive: unpack it",
    b"\xba\x16\x4f\x2f": "is fastText's .bin: take the .vec beside it, which holds the words' vectors as text",
}


@dataclass(frozen=True)
class WordTable:
    """The words of a file and their vectors."""

    rows: dict[str, int]  # of the table, by word: from 1
    table: Float32[np.ndarray, "words dim"]  # row 0 is zeros, for padding; mapped, so copy before changing
    mean: Float32[np.ndarray, " dim"]  # of all words


def read_words(path: Path) -> WordTable:
    """Read the words and vectors of a .vec or .txt file, compressed by gzip or not.

    Of a word that stands there twice the first vector counts, and a word whose vector is zero is left
    out, because it could not be compared; how many there are is logged.

    Raises:
        DataError: the file is of another format, is cut short, or has a line that is no word with its
            numbers; the line's number is named.
    """
    key = fingerprint(sha256=recall_digest(path), code=code_digest(__name__))
    with Scratch("words", key) as scratch:
        if not scratch.has(PARSED):
            scratch.put(PARSED, lambda folder: _parse(path, folder))
        folder = scratch.path(PARSED)
    with (folder / "words.txt").open(encoding="utf-8", newline="\n") as file:
        words = file.read().split("\n")
    mean = np.load(folder / "mean.npy")
    # copy-on-write: torch takes no read-only memory, and nothing may change the file
    table = np.memmap(folder / "table.f32", dtype="<f4", mode="c", shape=(len(words) + 1, len(mean)))
    return WordTable({word: row for row, word in enumerate(words, start=1)}, table, mean)


def _parse(path: Path, folder: Path) -> None:
    """Write `words.txt`, `table.f32` (little-endian rows) and `mean.npy` into `folder`."""
    folder.mkdir()
    seen: set[str] = set()
    repeated = zero = 0
    total: np.ndarray | None = None
    with (
        (folder / "words.txt").open("w", encoding="utf-8", newline="") as names,
        (folder / "table.f32").open("wb") as table,
    ):
        for words, vectors in _Lines(path).blocks():
            if total is None:
                total = np.zeros(vectors.shape[1])
                table.write(bytes(4 * vectors.shape[1]))
            kept = []
            flat = set(np.flatnonzero(np.abs(vectors).max(axis=1) == 0).tolist())
            for i, word in enumerate(words):
                repeated += word in seen
                zero += word not in seen and i in flat
                if word not in seen and i not in flat:
                    names.write(word if not seen else f"\n{word}")
                    kept.append(i)
                    seen.add(word)
            table.write(vectors[kept].astype("<f4").tobytes())
            total += vectors[kept].sum(axis=0, dtype=np.float64)
    if total is None or not seen:
        raise DataError(f"{path} holds no word with a vector; wanted fastText's .vec or GloVe's .txt")
    np.save(folder / "mean.npy", (total / len(seen)).astype(np.float32))
    if repeated or zero:
        log.warning(
            "%s: %s words stand there again (the first counts), %s have a zero vector (left out)",
            path.name,
            f"{repeated:,}",
            f"{zero:,}",
        )


class _Lines:
    """The lines of one file, checked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.promised: int | None = None  # words, by the first line of a .vec
        self.dim = 0

    def blocks(self) -> Iterator[tuple[list[str], Float32[np.ndarray, "words dim"]]]:
        """Words and vectors, block by block, in the order of the file."""
        found = 0
        try:
            with self._open() as file, Progress(self.path.name, total=0, unit="B", scale=True) as bar:
                number = 1
                while lines := list(_up_to(file, BLOCK_BYTES)):
                    if number == 1 and self._is_header(lines[0]):
                        del lines[0]
                        number = 2
                    if not lines:
                        continue
                    self.dim = self.dim or _numbers_at_the_end(lines[0].split())
                    if not self.dim:
                        self._refuse(number, "no numbers follow its word")
                    yield self._block(lines, number)
                    bar.add(sum(map(len, lines)))
                    number += len(lines)
                    found += len(lines)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{self.path} is damaged or cut short: {error}; fetch it again") from None
        if self.promised is not None and self.promised != found:
            raise DataError(
                f"{self.path} promises {self.promised:,} words in its first line and holds {found:,}: it was cut "
                "short, or two files were joined; fetch it again"
            )

    def _open(self) -> IO[bytes]:
        with self.path.open("rb") as file:
            start = file.read(4)
        for magic, advice in OTHER_FORMATS.items():
            if start.startswith(magic):
                raise DataError(f"{self.path} {advice}")
        if start.startswith(b"\x1f\x8b"):
            return io.BufferedReader(gzip.open(self.path, "rb"))  # type: ignore[arg-type]
        return self.path.open("rb")

    def _is_header(self, line: bytes) -> bool:
        """Whether the first line is fastText's: two counts, of words and of numbers each."""
        tokens = line.split()
        if len(tokens) != 2 or not all(token.isdigit() for token in tokens):
            return False
        self.promised, self.dim = int(tokens[0]), int(tokens[1])
        if not self.dim:
            self._refuse(1, "it promises vectors without numbers")
        return True

    def _block(self, lines: list[bytes], first: int) -> tuple[list[str], Float32[np.ndarray, "words dim"]]:
        words, numbers = [], []
        for i, raw in enumerate(lines):
            line = raw.rstrip(b" \r\n")
            word, _, rest = line.partition(b" ")
            if line.count(b" ") != self.dim:
                word, rest = self._odd(line, first + i)
            if not word:
                self._refuse(first + i, "it begins with a blank, so there is no word")
            words.append(word)
            numbers.append(rest)
        return self._decoded(words, first), self._vectors(numbers, first)

    def _odd(self, line: bytes, number: int) -> tuple[bytes, bytes]:
        """Word and numbers of a line with tabs, with several blanks in a row, or with blanks in its word."""
        tokens = line.split()
        have = _numbers_at_the_end(tokens)
        if have < self.dim:
            self._refuse(number, f"it has {have} numbers after its word, wanted {self.dim}")
        if any(map(_is_number, tokens[1 : -self.dim])):
            self._refuse(number, f"numbers stand in its word, wanted a word and {self.dim} numbers")
        return b" ".join(tokens[: -self.dim]), b" ".join(tokens[-self.dim :])

    def _decoded(self, words: list[bytes], first: int) -> list[str]:
        try:
            return b"\n".join(words).decode("utf-8").split("\n")
        except UnicodeDecodeError:
            for i, word in enumerate(words):
                try:
                    word.decode("utf-8")
                except UnicodeDecodeError:
                    self._refuse(first + i, "its word is not UTF-8; convert the file (iconv -t utf-8)")
            raise

    def _vectors(self, numbers: list[bytes], first: int) -> Float32[np.ndarray, "words dim"]:
        names = [str(i) for i in range(self.dim)]
        try:
            table = pl.read_csv(
                b"\n".join(numbers) + b"\n",
                separator=" ",
                has_header=False,
                quote_char=None,
                schema=dict.fromkeys(names, pl.Float32),
            )
            vectors = table.to_numpy()
        except pl.exceptions.PolarsError:
            vectors = np.full((len(numbers), self.dim), np.nan)  # some line is bad: which one is found below
        if vectors.shape != (len(numbers), self.dim) or not np.isfinite(vectors).all():
            vectors = np.array([self._slowly(rest, first + i) for i, rest in enumerate(numbers)])
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _slowly(self, rest: bytes, number: int) -> list[float]:
        """The numbers of one line, of a block in which something is wrong."""
        tokens = rest.split()
        if len(tokens) != self.dim:
            self._refuse(number, f"it has {len(tokens)} numbers after its word, wanted {self.dim}")
        for token in tokens:
            if not (_is_number(token) and abs(float(token)) <= LARGEST):  # NaN is not less
                found = token.decode("utf-8", "backslashreplace")
                self._refuse(number, f"'{found[:40]}' stands where a finite number should")
        return [float(token) for token in tokens]

    def _refuse(self, number: int, what: str) -> NoReturn:
        raise DataError(
            f"{self.path}, line {number:,}: {what}. The file is damaged or of another format; fetch it again"
        )


def _up_to(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next lines of a file, of about `size` bytes."""
    while size > 0 and (line := file.readline()):
        size -= len(line)
        yield line


def _is_number(token: bytes) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _numbers_at_the_end(tokens: list[bytes]) -> int:
    """Count the numbers at the end of a line's tokens; the first token is the word, whatever it looks like."""
    return sum(1 for _ in takewhile(_is_number, reversed(tokens[1:])))
