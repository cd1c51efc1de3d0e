"""What may be written to a terminal."""

from __future__ import annotations

import pytest

from twinlens.apps.commands.terminal import strip_control


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("two  dogs\non a\tbeach", "two dogs on a beach"),
        ("\x1b]0;title\x07x\x9by\x00", "]0;title x y"),
        ("a\u2028b\u2029c", "a b c"),
        ("\u202eabc\u2066d", "abcd"),
        ("a\ud800b", "a b"),
        ("👩\u200d🚀 שלום café", "👩\u200d🚀 שלום café"),
    ],
)
def test_only_what_steers_is_taken_out(text: str, wanted: str) -> None:
    assert strip_control(text) == wanted
