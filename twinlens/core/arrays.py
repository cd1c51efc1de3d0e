"""Files of numpy: what a library raises for one that is damaged, whatever its bytes lead it to."""

from __future__ import annotations

import lzma
import struct
import zlib
from tokenize import TokenError
from zipfile import BadZipFile

# A file that is not there is an OSError too. A header is parsed as Python; the arrays of a `.npz` are members of a zip,
# which may be compressed in any way.
DAMAGED = (
    *(OSError, ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RuntimeError),
    *(SyntaxError, TokenError, BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)
