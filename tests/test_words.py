"""What counts as a word, and as the same word."""

from __future__ import annotations

import pytest

from twinlens.words import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two Dogs running, on a beach!", ["two", "dog", "run", "on", "a", "beach"]),
        ("STRASSE Straße", ["strass", "strass"]),
        ("\uff24og", ["dog"]),  # a full-width D
        ("a red-and-white bus", ["a", "red", "and", "white", "bus"]),
        ("\u05db\u05dc\u05d1 \U0001f415 42", ["\u05db\u05dc\u05d1", "42"]),
        ("", []),
        ("?! ...", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected
