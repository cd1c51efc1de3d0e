"""Words: what BM25 counts as the same."""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from twinlens.retrieval.bm25 import Bm25
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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("黑狗", ["黑", "狗", "黑狗"]),
        ("狗", ["狗"]),
        ("赤い電車が", ["赤", "電", "車", "赤い", "い電", "電車", "車が"]),
        ("ｶﾞｽ", ["ガス"]),  # half width, made whole
        ("หมาสอง", ["หม", "มา", "าส", "สอ", "อง"]),
        ("ที่กิน", ["ที่กิ", "กิน"]),  # a consonant with its vowel and tone is one character
        ("2只dogs running", ["2", "只", "dog", "run"]),
        ("ສອງ ແມວ", ["ສອ", "ອງ", "ແມ", "ມວ"]),
        ("ឆ្កែ", ["ឆ្កែ"]),
        ("두 마리 개", ["두", "마리", "개"]),  # Korean has blanks
    ],
)
def test_scripts_without_blanks_are_split_into_pairs(text: str, found: list[str]) -> None:
    assert tokenize(text) == found


def test_a_word_of_an_unspaced_caption_is_found_in_it_and_no_other() -> None:
    captions = [
        "一只黑狗在海滩上奔跑",
        "雨中的红色电车",
        "两只狗在草地上玩耍",
        "市场上的人们",
        "หมาสองตัววิ่งบนชายหาด",
        "赤い電車が雨の中を走る",
    ]
    index = Bm25.of([tokenize(text) for text in captions])
    queries = ["狗", "电车", "หมา", "電車", "猫"]
    scores = index.scores(index.queries([tokenize(text) for text in queries]))
    assert [np.flatnonzero(row).tolist() for row in scores] == [[0, 2], [1], [4], [5], []]


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
