"""The names that a message suggests for a wrong one."""

from __future__ import annotations

from twinlens.core.errors import LISTED, NEAREST, suggest_nearest


def test_a_few_names_are_all_told() -> None:
    assert suggest_nearest("vektor", ["vector", "text", "hybrid"]) == (
        "did you mean 'vector'? Known: hybrid, text, vector"
    )
    assert suggest_nearest("zzz", ["vector", "text"]) == "known: text, vector"


def test_of_many_the_nearest_five_are_told() -> None:
    names = [f"vit-{size}-{patch}" for size in "sblgh" for patch in range(26)]
    said = suggest_nearest("vit-l14", names)
    assert said.startswith("did you mean 'vit-l-14'? Nearest of 130: vit-l-14, ")
    assert said.count(",") == NEAREST - 1
    nothing_like_it = suggest_nearest("", names)
    assert nothing_like_it == "known: vit-b-0, vit-b-1, vit-b-10, vit-b-11, vit-b-12 and 125 more"
    assert suggest_nearest("x", names[:LISTED]).count(",") == LISTED - 1
