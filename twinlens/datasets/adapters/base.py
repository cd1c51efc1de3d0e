"""Protocol of dataset adapters. One file per adapter beside this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from twinlens.datasets.annotations import Annotations

MISSING = "listed, but not there"  # the commonest reason


class DatasetAdapter(Protocol):
    """Converter of what a dataset's publishers ship into the project's own tables."""

    def download(self, raw: Path) -> int:
        """Fetch or draw everything into `raw` (a manifest, at least); returns the number of files or pictures.

        Raises:
            FetchError: something could not be had; the message names it and the ways on.
        """
        ...

    def annotations(self, raw: Path) -> Annotations:
        """All pictures and captions that the dataset's own files list, bad ones too."""
        ...

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """The bytes of each of `files` in turn, or the reason why a listed picture cannot be had."""
        ...
