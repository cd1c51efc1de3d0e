"""Files of numpy that are damaged, one's own and those that `embed` keeps: a sentence that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twinlens.core.errors import DataError
from twinlens.core.probes import Probe
from twinlens.core.row_sources import load_array
from twinlens.models.vector_files import read_vector_file

ROWS = np.arange(32, dtype=np.float32).reshape(4, 8)
IDS = np.array(["a.jpg", "b.jpg", "c.jpg", "d.jpg"])

Read = Callable[[Path], Any]


def write_both(path: Path) -> None:
    np.save(path.with_name("ids.npy"), IDS)
    np.save(path.with_name("rows.npy"), ROWS)


def read_both(path: Path) -> object:
    return read_vector_file(path.with_name("rows.npy"), path.with_name("ids.npy"))


def write_arrays(path: Path) -> None:
    np.savez_compressed(path, vectors=ROWS, ids=IDS)


def write_probe(path: Path) -> None:
    Probe(IDS.tolist(), ROWS, ROWS, 0.5, 3, True).write(path)


def open_bracket(raw: bytes) -> bytes:
    """A header that ends within its brackets: Python's tokenizer stumbles."""
    return raw.replace(b"), }", b" , }")


def promise_more(raw: bytes) -> bytes:
    """A header of more rows than any memory holds."""
    return raw.replace(b"(4, 8), }          ", b"(4000000000000, 8)}")


def write_no_character(raw: bytes) -> bytes:
    """A text of a character that there is none of."""
    return raw[:128] + b"\xff\xff\xff\x7f" + raw[132:]


def change_compressed(raw: bytes) -> bytes:
    return raw[:60] + bytes(8) + raw[68:]


def break_directory(raw: bytes) -> bytes:
    return raw.replace(b"PK\x01\x02", b"PK\x01\x03")


@pytest.mark.parametrize(
    ("name", "write", "damage", "read"),
    [
        ("rows.npy", write_both, open_bracket, load_array),
        ("rows.npy", write_both, promise_more, load_array),
        ("rows.npy", write_both, open_bracket, read_both),
        ("ids.npy", write_both, write_no_character, read_both),
        ("both.npz", write_arrays, change_compressed, lambda path: read_vector_file(path, None)),
        ("both.npz", write_arrays, break_directory, lambda path: read_vector_file(path, None)),
        ("probe.npz", write_probe, open_bracket, Probe.read),
        ("probe.npz", write_probe, break_directory, Probe.read),
    ],
)
def test_a_damaged_file_is_named(
    name: str, write: Callable[[Path], None], damage: Callable[[bytes], bytes], read: Read, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    read(path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    with pytest.raises(DataError, match=rf"{name} is (damaged|no NumPy file that can be read)"):
        read(path)


def test_an_array_that_is_whole_is_read_as_it_is_written(tmp_path: Path) -> None:
    for array in (ROWS, IDS, ROWS[:0], np.array(3)):
        np.save(tmp_path / "a.npy", array)
        found = load_array(tmp_path / "a.npy")
        np.testing.assert_array_equal(found, array)
        assert type(found) is np.ndarray
