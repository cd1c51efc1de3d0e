"""CLIP's tokens by a compiled tokenizer: the numbers of open_clip's own, which is written in Python, many times faster.

open_clip's `SimpleTokenizer` cleans a text, cuts it by a regular expression and merges bytes by rank. Here its
vocabulary and its merges are those of a `tokenizers.Tokenizer`, and the cleaning is skipped where it would change
nothing. What the two might read differently goes to the library: texts that spell out one of its special tokens, and
characters that the two have in other classes (young letters, as they follow different versions of Unicode; the long s,
which is an s where capitals do not matter). `tests/models/encoders/test_clip_bpe.py` compares them on every character.

As each token is made by one merge alone (so many merges, so many tokens), the order in which equal pairs are merged
cannot matter.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
from jaxtyping import Int64
from open_clip import SimpleTokenizer
from open_clip.tokenizer import get_clean_fn
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""  # of the library, without its special tokens
# Characters that the library's regular expressions and these have in different classes, or may have: of the planes
# beyond the first, emoji and the large block of Han alone are taken here.
UNALIKE = re.compile(
    "[\u017f\u0345\u0558\u058b\u058c\u088f\u0c5c\u0cdc\u208f\u209d-\u209f\ua7ce\ua7cf\ua7d2\ua7d4\ua7dd\ua7e2\ua7f1\uab6c\uab6d"
    "\U00010000-\U0001efff\U0001fb00-\U0001ffff\U0002a6d7-\U0010ffff]"
)
TEXTS_PER_TASK, MOST_THREADS = 256, 8
SPECIAL = "_of_text>"  # both of the library's special tokens end so


def can_stand_for(library: object) -> bool:
    """Whether the tokens of a tokenizer can be made here: CLIP's own, in small letters, that cuts texts at the end."""
    return (
        isinstance(library, SimpleTokenizer)
        and library.clean_fn in (get_clean_fn("lower"), get_clean_fn("canonicalize"))
        and library.reduction_fn is None
        and len(library.all_special_ids) == 2
    )


class ClipBpe:
    """The library's tokenizer, compiled."""

    def __init__(self, library: SimpleTokenizer) -> None:
        """Take a tokenizer of open_clip for which this one can stand."""
        self.library, self.lowers = library, library.clean_fn is get_clean_fn("lower")
        merges = sorted(library.bpe_ranks, key=library.bpe_ranks.__getitem__)
        self._compiled = Tokenizer(models.BPE(library.encoder, merges, end_of_word_suffix="</w>"))
        self._compiled.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, without start and end, as `SimpleTokenizer.encode` gives them."""
        clean = [self._clean(text) for text in texts]
        chunks = [clean[at : at + TEXTS_PER_TASK] for at in range(0, len(clean), TEXTS_PER_TASK)]
        if len(chunks) > 1:  # the compiled part leaves the interpreter's lock
            with ThreadPoolExecutor(min(MOST_THREADS, len(chunks), os.cpu_count() or 1), "tokenize") as pool:
                found = list(pool.map(self._compiled.encode_batch_fast, chunks))
        else:
            found = [self._compiled.encode_batch_fast(chunk) for chunk in chunks]
        tokens: list[list[int]] = [encoding.ids for chunk in found for encoding in chunk]
        for place, text in enumerate(clean):
            if SPECIAL in text.lower() or (not text.isascii() and UNALIKE.search(text)):
                tokens[place] = self.library.encode(texts[place])
        return tokens

    def pad(self, tokens: Sequence[list[int]], length: int) -> Int64[np.ndarray, "texts longest"]:
        """Put start and end around the tokens, cut at `length` in all, and pad with zeros to the longest."""
        kept = [row if len(row) <= length - 2 else row[: length - 2] for row in tokens]
        counts = np.fromiter(map(len, kept), dtype=np.int64, count=len(kept))
        padded = np.zeros((len(kept), int(counts.max(initial=0)) + 2), dtype=np.int64)
        places = np.arange(padded.shape[1] - 2)
        padded[:, 0] = self.library.sot_token_id
        padded[:, 1:-1][places < counts[:, None]] = np.fromiter(chain.from_iterable(kept), np.int64, int(counts.sum()))
        padded[np.arange(len(kept)), counts + 1] = self.library.eot_token_id
        return padded

    def _clean(self, text: str) -> str:
        # ftfy repairs what is not ASCII, and takes control characters and HTML's entities out: here are none of them
        if self.lowers and text.isascii() and text.isprintable() and "&" not in text:
            return " ".join(text.split()).lower()
        return str(self.library.clean_fn(text))
