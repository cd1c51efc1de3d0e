"""Columns of tables of pictures, as cards of datasets name them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from twinlens.config.base import Card


class CaptionColumns(Card):
    """Columns of captions: several columns are several captions, and so are the texts of a list in a cell."""

    caption: str | Annotated[list[str], Field(min_length=1)] | None = None

    @property
    def captions(self) -> list[str]:
        """The columns that hold captions, of which there may be none."""
        return [] if self.caption is None else [self.caption] if isinstance(self.caption, str) else self.caption


class ParquetColumns(CaptionColumns):
    """The columns of a Parquet dataset. An image is bytes, or a struct with bytes and path as the hub writes it."""

    image: str = "image"
    label: str | None = None  # a string, a number, or a list of them
    id: str | None = None  # if absent, the image's path, or the file's name and the row
    split: str | None = None  # a column of train, val or test; a file's split is that of its pattern if absent


class FolderColumns(CaptionColumns):
    """The columns of your own table; several rows of one file are several captions."""

    file: str  # the picture's path below `images`
    id: str | None = None  # the path if absent
    label: str | None = None  # a name, or a list
    split: str | None = None  # train, val or test; all are `test` if absent
