"""Token matrices: a vector for each token of an input, of inputs of any length, one after another in one file.

Beside the vectors of a source `<name>` lie `<name>.tokens.npy` (tokens x dim, float16) and `<name>.offsets.npy`: where
each input begins, and where the last one ends. Rows have the order of the source's ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float16, Float32, Int, Int64

from twinlens.core.arrays import DAMAGED
from twinlens.core.errors import DataError, remake
from twinlens.core.resources import name_disk_fault, reserve_room
from twinlens.core.vectors import Vectors, write_rows

UNIT = 0.05  # how far the length of a token's vector may be from one: bfloat16 is off by that much
MOST_TOKENS = 2**14  # of an input: so many products can be added without error (`retrieval/maxsim.py`)


@dataclass(frozen=True)
class TokenMatrices:
    """Matrices of some inputs: where each lies among the token vectors of a file, which is mapped.

    Attributes:
        values: token vectors of unit length.
        starts: of each input, its first row among them.
        lengths: of each input, how many rows it has, at least one.
    """

    values: Float16[np.ndarray, "tokens dim"]
    starts: Int64[np.ndarray, " inputs"]
    lengths: Int64[np.ndarray, " inputs"]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def dim(self) -> int:
        """Numbers of a token's vector."""
        return int(self.values.shape[1])

    def matrix(self, row: int) -> Float16[np.ndarray, "tokens dim"]:
        """The token vectors of one input."""
        return self.values[self.starts[row] : self.starts[row] + self.lengths[row]]

    def select(self, rows: Int[np.ndarray, " some"] | slice) -> TokenMatrices:
        """Select some inputs, in an order of one's own; no vector is read."""
        return TokenMatrices(self.values, self.starts[rows], self.lengths[rows])

    def pad(self, rows: Int[np.ndarray, " some"], width: int) -> Float16[np.ndarray, "some width dim"]:
        """The matrices of some inputs, each made as long as `width` by its own last token.

        The maximum over the tokens of an input stays what it is, so that nobody needs a mask.
        """
        within = np.minimum(np.arange(width), self.lengths[rows][:, None] - 1)
        padded: Float16[np.ndarray, "some width dim"] = self.values[self.starts[rows][:, None] + within]
        return padded


def join_matrices(matrices: Sequence[Float[np.ndarray, "_ dim"]]) -> TokenMatrices:
    """Join matrices that are in memory."""
    lengths = np.array([len(one) for one in matrices], dtype=np.int64)
    values = np.concatenate(matrices).astype(np.float16)
    return TokenMatrices(values, np.cumsum(lengths) - lengths, lengths)


def refuse_useless(matrices: TokenMatrices, ids: Sequence[str]) -> None:
    """Refuse token vectors that are not of unit length, and inputs that have none or too many.

    Raises:
        DataError: the first such input is named.
    """
    for row, (start, length) in enumerate(zip(matrices.starts, matrices.lengths, strict=True)):
        if not 0 < length <= MOST_TOKENS:
            raise DataError(
                f"{ids[row]} has {length:,} token vectors, wanted 1 to {MOST_TOKENS:,}: leave it out of the dataset, "
                "or shorten what the model reads of it"
            )
        found = np.linalg.norm(matrices.values[start : start + length].astype(np.float32), axis=1)
        if not (np.abs(found - 1.0) < UNIT).all():
            worst = float(found[int(np.argmax(np.where(np.isfinite(found), np.abs(found - 1.0), np.inf)))])
            raise DataError(
                f"{ids[row]} has a token vector of length {worst:.3g}, wanted 1: the model ends without the module "
                "Normalize, or its weights are damaged"
            )


def write_token_matrices(parts: Iterable[Path], count: int, tokens: int, folder: Path, name: str) -> int:
    """Write the parts of a source as one, and the mean of each input's token vectors as `<name>.npy` or its folder.

    Args:
        parts: files with `values` and `lengths`, in order.
        count: inputs of all parts.
        tokens: of all inputs.
        folder: where the files go.
        name: of the source.

    Returns:
        The numbers of a token's vector.

    Raises:
        ResourceError: the disk is full; the message has the bytes that are needed and free.
    """
    path, lengths = _path(folder, name), list[Int64[np.ndarray, " inputs"]]()
    with name_disk_fault(path), path.open("wb") as file:

        def write() -> Iterator[Float32[np.ndarray, "inputs dim"]]:
            for part in parts:
                with np.load(part, allow_pickle=False) as held:
                    values, own = np.ascontiguousarray(held["values"], dtype="<f2"), held["lengths"]
                if not lengths:
                    described = {"descr": "<f2", "fortran_order": False, "shape": (tokens, values.shape[1])}
                    np.lib.format.write_array_header_1_0(file, described)
                    reserve_room(file, path, file.tell() + 2 * tokens * values.shape[1])
                file.write(values.data)
                lengths.append(own)
                yield pool_tokens(values, own)

        dim = write_rows(folder / f"{name}.npy", write(), count)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    assert offsets[-1] == tokens, f"the parts of {name} hold {offsets[-1]} token vectors of {tokens}"
    with (folder / f"{name}.offsets.npy").open("wb") as of_offsets:
        np.save(of_offsets, offsets.astype("<i8"))
    return dim


def pool_tokens(
    values: Float16[np.ndarray, "tokens dim"], lengths: Int[np.ndarray, " inputs"]
) -> Float32[np.ndarray, "inputs dim"]:
    """Pool the token vectors of each input: their mean, at unit length."""
    sums = np.add.reduceat(values, np.cumsum(lengths) - lengths, axis=0, dtype=np.float64)
    return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-300)).astype(np.float32)


def read_token_matrices(folder: Path, vectors: Mapping[str, Vectors]) -> dict[str, TokenMatrices]:
    """Open the token matrices of those sources that have some, mapped rather than read.

    Args:
        folder: of the vectors.
        vectors: of the sources, by name.

    Raises:
        DataError: the files of a source do not belong together, or are damaged.
    """
    return {
        name: _read(folder, name, len(source.ids)) for name, source in vectors.items() if _path(folder, name).exists()
    }


def _read(folder: Path, name: str, count: int) -> TokenMatrices:
    path = _path(folder, name)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        offsets = np.load(folder / f"{name}.offsets.npy", allow_pickle=False)
    except DAMAGED as error:
        raise DataError(f"{path} is damaged ({' '.join(str(error).split())[:120]}): {remake('embed')}") from None
    lengths = np.diff(offsets)
    if values.ndim != 2 or values.dtype != np.float16 or len(lengths) != count or offsets[-1] != len(values):
        raise DataError(
            f"{path} holds {len(values):,} token vectors of {len(lengths):,} inputs, where {offsets[-1]:,} of "
            f"{count:,} are wanted: {remake('embed')}"
        )
    return TokenMatrices(values, offsets[:-1], lengths)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.tokens.npy"
