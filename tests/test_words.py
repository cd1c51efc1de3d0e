"""Words: what BM25 counts as the same."""

from __future__ import annotations

import pytest

from twinlens.words import words


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
    assert words(text) == found
