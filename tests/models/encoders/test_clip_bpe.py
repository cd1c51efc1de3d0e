"""CLIP's tokens by a compiled tokenizer: the numbers of open_clip's own, whatever a text holds."""

from __future__ import annotations

import sys
import unicodedata
from itertools import islice

import numpy as np
import open_clip
import pytest

from twinlens.models.encoders.clip_bpe import UNALIKE, ClipBpe, can_stand_for

HOSTILE = [
    "",
    " \t\n ",
    "A Dog's  Tail, isn't it?  They'LL've 3.14 100,000 dogs!!!",
    "cafe\u0301 caf\u00e9 na\u00efve \u01c5 \u0130stanbul stra\u00dfe \u017fea 'S 'T '\u017f",
    "fish &amp; chips &lt;b&gt; &amp;lt; &#39;s &eacute; &nbsp;x AT&T a&b",
    "schÃ¶n â€œquotesâ€\x9d dâ€™accord",  # read in a wrong encoding, which ftfy mends
    "\u201ccurly\u201d \u2018quotes\u2019 \u2013 \u2026 \ufb01sh \ufb06one \uff21\uff22\uff23 \uff11\uff12",
    "\x00\x01a\x07b\x1b[31mred\x1b[0m c\x7fd\u200be\u200f\ufeff\u2028f\u3000g\u0085h\x1ci",
    "🐕‍🦺 👩🏽‍🚀 🇳🇱 a🐕b 1️⃣ ✈️🧑‍🤝‍🧑",
    "犬 고양이 собака σκύλος כלב كلب कुत्ता หมา ໝາ ქალი \uff14\uff12 ²½ⅷ ٣",
    "\U0001d49c\U00010480 \U00020000\U0002a6d6\U0002f800 \U0001fbf5 \U0001e900\U000e0041 \U0010ffff \ue000",
    "<|endoftext|> <|startoftext|> <end_of_text> a<START_OF_TEXT>b <end_of_text",
    "<b>&amp;</b> <end&#95;of&#95;text>",
    "dog" * 3000,
    "a dog runs " * 500,
    "!?" * 500 + "1234567890" * 50,
    "'s't're've'm'll'd 's 't 're",
    "\u0345\u03b9 \u1fbc \ua7ce\u0558 \u180e\u2003x",
]


@pytest.fixture(scope="module")
def library() -> open_clip.SimpleTokenizer:
    return open_clip.get_tokenizer("ViT-B-32")


def same(compiled: ClipBpe, texts: list[str]) -> bool:
    return compiled.encode(texts) == [compiled.library.encode(text) for text in texts]


def test_hostile_texts_have_the_librarys_numbers(library: open_clip.SimpleTokenizer) -> None:
    compiled = ClipBpe(library)
    for text in HOSTILE:
        assert same(compiled, [text]), text
    assert compiled.encode([]) == []


@pytest.mark.parametrize("length", [77, 5])
def test_texts_are_padded_and_cut_as_the_library_does(library: open_clip.SimpleTokenizer, length: int) -> None:
    compiled = ClipBpe(library)
    found = compiled.pad(compiled.encode(HOSTILE), length)
    wanted = library(HOSTILE, context_length=length).numpy()
    assert np.array_equal(found, wanted[:, : found.shape[1]])
    assert found.dtype == np.int64 and not wanted[:, found.shape[1] :].any()
    assert compiled.pad(compiled.encode([""]), length).tolist() == [[49406, 49407]]


def test_a_text_is_given_to_the_library_only_where_it_must(
    library: open_clip.SimpleTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, given = ClipBpe(library), list[str]()
    own = open_clip.SimpleTokenizer.encode

    def noted(self: open_clip.SimpleTokenizer, text: str) -> list[int]:
        given.append(text)
        return list(own(self, text))

    monkeypatch.setattr(open_clip.SimpleTokenizer, "encode", noted)
    compiled.encode(["A dog & a cat.", "café 犬 🐕 &eacute;", "the <end_of_text>", "\u017fea"])
    assert given == ["the <end_of_text>", "\u017fea"]


def test_tokenizers_of_other_kinds_are_left_alone(library: open_clip.SimpleTokenizer) -> None:
    assert can_stand_for(library)
    assert can_stand_for(open_clip.SimpleTokenizer(clean="canonicalize"))
    for other in ({"clean": "whitespace"}, {"reduction_mask": "random"}, {"additional_special_tokens": ["<x>"]}):
        assert not can_stand_for(open_clip.SimpleTokenizer(**other))
    assert not can_stand_for(object())
    canonical = ClipBpe(open_clip.SimpleTokenizer(clean="canonicalize"))
    assert all(same(canonical, [text]) for text in HOSTILE)


def mix(rng: np.random.Generator, alphabet: list[str]) -> str:
    return "".join(alphabet[i] for i in rng.integers(len(alphabet), size=int(rng.integers(1, 30))))


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_mixtures_of_everything_have_the_librarys_numbers(library: open_clip.SimpleTokenizer, count: int) -> None:
    compiled, rng = ClipBpe(library), np.random.default_rng(0)
    alphabet = [
        *"abcdefgXYZ0123 '.,!?&;#<>_-\t",
        " dog",
        " The",
        "&amp;",
        "'s",
        "é",
        "ß",
        "犬",
        "🐕",
        "\u0301",
        "\u200d",
    ]
    alphabet += [chr(int(c)) for c in rng.integers(0x80, 0x3000, size=40)]
    for start in range(0, count, 1000):
        texts = [mix(rng, alphabet) for _ in range(min(1000, count - start))]
        assert same(compiled, texts), next(text for text in texts if not same(compiled, [text]))


@pytest.mark.slow
def test_every_character_there_is_has_the_librarys_numbers(library: open_clip.SimpleTokenizer) -> None:
    compiled = ClipBpe(library)
    every = (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    taken = (f"a{c}b 1{c}2 '{c}" for c in every if not UNALIKE.match(c) and unicodedata.category(c) != "Cn")
    while texts := list(islice(taken, 5000)):
        assert same(compiled, texts), next(ascii(text) for text in texts if not same(compiled, [text]))
        library.cache.clear()
        library.cache.update({"<start_of_text>": "<start_of_text>", "<end_of_text>": "<end_of_text>"})
