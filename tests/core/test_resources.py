"""Memory and disks that run out: told apart from damaged data, with the place and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError

from twinlens.core import resources
from twinlens.core.errors import ResourceError
from twinlens.core.resources import (
    ensure_room,
    explain_disk_fault,
    is_memory_shortage,
    measure_free,
    name_disk_fault,
    name_memory_shortage,
)

FULL = Path("/dev/full")  # takes nothing: "no space left on device"
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 286. MiB for an array"),
        OSError("out of memory when reading image file"),
        ValueError("Insufficient memory (case 4)"),
        RuntimeError("can't start new thread"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
)
def test_a_shortage_of_memory_is_known_in_the_words_of_each_library(error: Exception) -> None:
    assert is_memory_shortage(error)


@pytest.mark.parametrize("error", [ValueError("broken data stream"), OSError(errno.ENOENT, "no such file"), KeyError()])
def test_other_errors_are_no_shortage(error: Exception) -> None:
    assert not is_memory_shortage(error)
    assert explain_disk_fault(error) is None
    with pytest.raises(type(error)), name_memory_shortage("x", "y"), name_disk_fault(Path("z")):
        raise error


def test_a_shortage_says_of_what_and_what_to_lower() -> None:
    with (
        pytest.raises(ResourceError, match=r"memory ran out while a.jpg was being opened \(none\). Lower it"),
        name_memory_shortage("a.jpg was being opened", "Lower it"),
    ):
        raise MemoryError("none")


def test_room_is_measured_where_a_path_will_lie(tmp_path: Path) -> None:
    assert measure_free(tmp_path / "not" / "there.npy") > 0
    ensure_room(tmp_path / "small", 1)
    with pytest.raises(ResourceError, match=r"vectors.npy needs 1,000,000,000,000,000,000 bytes and [\d,]+ are free"):
        ensure_room(tmp_path / "vectors.npy", 10**18)


@needs_full
@pytest.mark.parametrize("library", ["python", "numpy", "arrow", "torch"])
def test_a_full_disk_is_known_as_each_library_says_it(library: str) -> None:
    # Only through a handle that is open: a library that renames would put a file in the device's place.
    numbers = np.arange(1_000_000, dtype=np.float32)
    with (
        pytest.raises(ResourceError, match=r"disk is full: out needs more than [\d,]+ bytes, of which [\d,]+ were"),
        name_disk_fault(Path("out")),
        FULL.open("wb") as file,
    ):
        if library == "python":
            file.write(bytes(10))
            file.flush()
        elif library == "numpy":
            np.save(file, numbers)
        elif library == "arrow":
            pq.write_table(pa.table({"x": numbers}), file, compression="none")
        else:
            torch.save({"x": torch.from_numpy(numbers)}, file)


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: IoError(Os { code: 28, kind: StorageFull })"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 704 vs 598"),
        RuntimeError("lance error: LanceError(IO): Generic LocalFileSystem error: No space left (os error 28)"),
        OSError("12800 requested and 0 written"),
    ],
)
def test_a_full_disk_is_known_in_words_without_a_number(error: Exception) -> None:
    assert (explain_disk_fault(error, Path("data/x")) or "").startswith("the disk is full: data/x needs more")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EROFS, "the disk may only be read (data/x)"),
        (errno.EACCES, "permission denied (data/x): mend its owner"),
        (errno.EDQUOT, "the disk quota is used up: data/x needs more"),
        (errno.EFBIG, "the file is larger than"),
    ],
)
def test_each_fault_of_a_disk_is_named_with_its_path(number: int, said: str) -> None:
    told = explain_disk_fault(OSError(number, os.strerror(number), "data/x"))
    assert told is not None
    assert told.startswith(said)


def test_what_polars_says_of_a_full_disk_is_believed_where_nothing_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    error = pl.exceptions.ComputeError("parquet: File out of specification: Invalid thrift: transport error")
    assert explain_disk_fault(error, Path("data/x")) is None
    monkeypatch.setattr(resources, "measure_free", lambda path: 100)
    assert (explain_disk_fault(error, Path("data/x")) or "").startswith("the disk is full: data/x needs more than 100")


def test_where_no_path_is_known_the_fullest_disks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "measure_free", lambda path: 7 if path == Path("report") else 10**9)
    told = explain_disk_fault(OSError(errno.ENOSPC, "No space left on device"))
    assert (told or "").startswith(f"the disk is full; free are 7 bytes in {Path('report').absolute()}, 1,000,000,000 ")
