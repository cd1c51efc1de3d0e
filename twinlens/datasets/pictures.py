"""The pictures of a dataset, read from the publisher's own files by whoever needs some of them, again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from twinlens.config.datasets import DatasetCard
from twinlens.datasets import make_adapter
from twinlens.datasets.readers.archives import hold_archives


@contextmanager
def open_pictures(card: DatasetCard, raw: Path) -> Iterator[Callable[[Sequence[str]], Iterator[bytes | str]]]:
    """Open a dataset's files: gives what reads some of them, as `DatasetAdapter.read_pictures` does.

    Args:
        card: the dataset's.
        raw: folder of the `download` stage.
    """
    with hold_archives():
        yield partial(make_adapter(card).read_pictures, raw)
