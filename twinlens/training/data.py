"""Training data: pictures of one split, decoded once, and their captions."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Int, UInt8

from twinlens.core.code import code_digest
from twinlens.core.device import Placement, choose_matrix_dtype
from twinlens.core.errors import DataError
from twinlens.core.progress import Progress
from twinlens.core.scratch import Scratch, digest, fingerprint
from twinlens.core.shards import iter_pixels
from twinlens.images.transforms import PixelSpec, decode_and_fit, map_ahead

PER_PART = 2048

# That decide the weights of any training, beside torch.
LIBRARIES = ("open_clip_torch", "transformers", "tokenizers")


@dataclass(frozen=True)
class Split:
    """Pictures of one split with their captions; a picture without a caption is left out."""

    pictures: pl.DataFrame  # image_id, shard, row, sha256
    captions: list[str]
    captions_of: list[Int[np.ndarray, " captions"]]  # rows of `captions`, a picture

    def join_captions(self) -> list[str]:
        """Join the captions of each picture, in their order, as `captions_joined` does for the pool."""
        return [" ".join(self.captions[row] for row in rows) for rows in self.captions_of]


def read_split(groups: pl.DataFrame, captions: pl.DataFrame, split: str) -> Split:
    """The pictures and captions of a split.

    Args:
        groups: table GROUPS.
        captions: table CAPTIONS.
        split: train, val or test.

    Raises:
        DataError: the split has no captioned picture.
    """
    captioned = captions.select("image_id").unique()
    wanted = groups.filter(split=split).join(captioned, on="image_id", how="semi", maintain_order="left")
    if wanted.is_empty():
        raise DataError(f"split '{split}' has no captioned picture to train on")
    order = pl.DataFrame({"image_id": wanted["image_id"], "picture": np.arange(len(wanted))})
    mine = captions.join(order, on="image_id", how="inner", maintain_order="left").sort("picture", maintain_order=True)
    bounds = np.flatnonzero(np.diff(mine["picture"].to_numpy())) + 1
    return Split(wanted, mine["text"].to_list(), np.split(np.arange(len(mine)), bounds))


@dataclass(frozen=True)
class TrainingData:
    """Data of a training: the tables, the shards, and how many threads decode them."""

    groups: pl.DataFrame  # table GROUPS
    captions: pl.DataFrame  # table CAPTIONS
    shards: Path
    decode_threads: int

    def splits(self) -> tuple[Split, Split]:
        """The training and the validation split.

        Raises:
            DataError: a split is empty, or two of them and the pool share a picture.
        """
        train, val = (read_split(self.groups, self.captions, name) for name in ("train", "val"))
        pool = self.groups.filter("in_pool")
        check_disjoint(train.pictures, val.pictures, "training pictures", "the validation split")
        check_disjoint(train.pictures, pool, "training pictures", "the pool")
        check_disjoint(val.pictures, pool, "validation pictures", "the pool")  # they choose the epoch that is kept
        return train, val

    def store(self, split: Split, spec: PixelSpec) -> PixelStore:
        """The pictures of a split as a model reads them."""
        return PixelStore(self.shards, split.pictures, spec, self.decode_threads)


@dataclass(frozen=True)
class TrainingResult:
    """Outcome of a training, besides the weights."""

    log: list[dict[str, float]]  # a row an epoch
    seconds: float  # of all epochs, in whichever run they were made
    pictures: int


def check_disjoint(used: pl.DataFrame, measured: pl.DataFrame, what: str, where: str) -> None:
    """Refuse to learn from what is measured.

    Raises:
        DataError: a picture, by id or by its bytes, is on both sides.
    """
    for column, by, remedy in (
        ("image_id", "id", "choose a `pool` on the dataset's card that training does not touch"),
        ("sha256", "bytes", "`group.drop_duplicates: exact` leaves out copies"),
    ):
        both = set(used[column]) & set(measured[column])
        if both:
            raise DataError(f"{len(both)} {what} are in {where} too, by their {by}; the first: {min(both)}: {remedy}")


def fingerprint_training(card: dict[str, Any], train: Split, val: Split, placement: Placement, module: str) -> str:
    """Compute the fingerprint of a training: everything that decides its weights.

    Args:
        card: what is trained, and how.
        train: the training split.
        val: the validation split, which may choose the epoch.
        placement: where it is trained.
        module: the one that trains; its code and what it imports decide these weights.
    """
    return fingerprint(
        card=card,
        pictures=[digest(split.pictures["sha256"]) for split in (train, val)],
        captions=[digest(split.captions) for split in (train, val)],
        captions_of=[digest(str(len(rows)) for rows in split.captions_of) for split in (train, val)],
        device=placement.name,
        matrices=str(choose_matrix_dtype(placement.device)),
        libraries=[torch.__version__, *map(version, LIBRARIES)],
        code=code_digest(module),
    )


class PixelStore:
    """Pictures as a model reads them, decoded once into files and mapped into memory.

    Training reads every picture many times, in another order each time: decoding them once costs a
    fraction of one epoch, and the maps cost no memory that is not read.
    """

    def __init__(self, shards: Path, pictures: pl.DataFrame, spec: PixelSpec, threads: int) -> None:
        key = fingerprint(pictures=digest(pictures["sha256"]), spec=repr(spec), code=code_digest(__name__))
        self.spec = spec
        with Scratch("pixels", key) as scratch:
            starts = range(0, len(pictures), PER_PART)
            names = {f"part-{n:05d}.npy": pictures[start : start + PER_PART] for n, start in enumerate(starts)}
            missing = {name: rows for name, rows in names.items() if not scratch.has(name)}
            todo = pl.concat(list(missing.values())) if missing else pictures[:0]
            jpegs = (jpeg for _, jpeg in iter_pixels(shards, todo))
            decoded = map_ahead(lambda jpeg: decode_and_fit(jpeg, spec), jpegs, threads, waiting=64)
            with Progress("decode", total=len(pictures), unit="img", done=len(pictures) - len(todo)) as bar:
                for name, rows in missing.items():
                    part = np.stack([next(decoded).numpy() for _ in range(len(rows))])
                    scratch.put(name, lambda path, part=part: _save(path, part))  # type: ignore[misc]
                    bar.add(len(rows))
            self.parts = [np.load(scratch.path(name), mmap_mode="r", allow_pickle=False) for name in names]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, rows: Int[np.ndarray, " batch"]) -> UInt8[torch.Tensor, "batch 3 height width"]:
        batch = np.empty((len(rows), 3, self.spec.height, self.spec.width), dtype=np.uint8)
        for i, row in enumerate(rows.tolist()):
            batch[i] = self.parts[row // PER_PART][row % PER_PART]
        return torch.from_numpy(batch)


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array)
