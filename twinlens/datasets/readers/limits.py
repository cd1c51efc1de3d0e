"""Size limits of what strangers' files hold: asked before it is read, and again of what comes out.

A few kilobytes can stand for many gigabytes: a packed run of zeros, the holes of a sparse tar, one word of a Parquet
dictionary that a million rows point to. Sizes that a file declares are compared first; as they may be wrong, reading
stops there too.
"""

from __future__ import annotations

from pathlib import Path

from twinlens.core.errors import DataError

MB = 2**20
MAX_PICTURE_BYTES = 512 * MB  # of a file; 100 megapixels of 16-bit samples, not packed, are 572 MB
MAX_BESIDE_BYTES = 16 * MB  # of a sample's caption or metadata
MAX_TABLE_BYTES = 2048 * MB  # of a table or a file of annotations; COCO's largest has 450 MB
MAX_TEXT_BYTES = 1024 * MB  # of all texts of a Parquet table; ten million captions of a hundred letters
MAX_ROWS = 20_000_000  # of a table; ImageNet has 1.3 million
MAX_VALUES = 100_000_000  # of one of its columns, lists counted through
MAX_GROUP_BYTES = 4096 * MB  # of one column of a row group of pictures, unpacked
MAX_NESTED = 32  # lists within lists of a cell
# An archive that is packed as a whole is gone through from its start, whatever is read of it.
MAX_UNPACKED_BYTES, MAX_RATIO = 1024 * MB, 100  # unpacked: the first always, above it up to so many times its size
SPLIT = "Split it into several, or keep only the columns that are needed"


def explain_size(size: int, limit: int, what: str = "unpacked") -> str | None:
    """Explain why something is not read: it is too large. None where it is not."""
    return f"{size:,} bytes {what}, wanted at most {limit:,}" if size > limit else None


def refuse_large(path: Path, limit: int = MAX_TABLE_BYTES) -> int:
    """Refuse a file that is read as a whole and is too large for that; returns its size.

    Raises:
        DataError: it has more than `limit` bytes.
    """
    size = path.stat().st_size
    if size > limit:
        raise DataError(f"{path} has {size:,} bytes, wanted at most {limit:,} as it is read as a whole. {SPLIT}")
    return size


def describe(error: Exception) -> str:
    """Describe an error in at most a line; its kind where it has no words."""
    said = " ".join(str(error).split())
    return said[:200] if said else type(error).__name__
