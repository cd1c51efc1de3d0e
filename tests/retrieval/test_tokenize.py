"""Words: what BM25 counts as the same."""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from twinlens.retrieval.tokenize import _stem, tokenize


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Two DOGS, running!", ["two", "dog", "run"]),
        ("\ufb01sh \uff24\uff4f\uff47 \u2460", ["fish", "dog", "1"]),  # a ligature, full width, in a circle
        ("STRASSE straße", ["strass", "strass"]),  # casefolded, not lower-cased
        ("كلب على الشاطئ", ["كلب", "على", "الشاطئ"]),
        ("🐶🏖️ <b>", ["b"]),
        ("", []),
    ],
)
def test_words_are_normalised_folded_and_stemmed(text: str, found: list[str]) -> None:
    assert tokenize(text) == found


def test_threads_do_not_mix_up_the_words_that_they_stem() -> None:
    draw = random.Random(0)
    endings = ("", "s", "ing", "ational", "fulness", "ies", "edly")
    fresh = ["".join(draw.choices("aeioubdlmnrstvy", k=7)) + draw.choice(endings) for _ in range(4_000)]
    _stem.cache_clear()
    alone = [tokenize(word) for word in fresh]
    _stem.cache_clear()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(tokenize, fresh)) == alone
    finally:
        sys.setswitchinterval(before)
        _stem.cache_clear()
