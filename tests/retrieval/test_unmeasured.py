"""A model without a row of its own is named, with the reason and what would help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from tests.tasks.small import CAPTION_IDS, CAPTION_IMAGES, GROUPS, IDS, MACHINE, built, corpus, params, vectors
from twinlens.core.vectors import Vectors
from twinlens.retrieval.registry import list_retrievers
from twinlens.retrieval.runs import read_unmeasured, write_unmeasured
from twinlens.retrieval.unmeasured import explain_unmeasured
from twinlens.tasks.inputs import CAPTIONS, GENERATED, IMAGES, JOINED

PIXELS = {IMAGES: vectors(IDS, IDS, 1)}
WORDS = {CAPTIONS: vectors(CAPTION_IDS, CAPTION_IMAGES, 2), JOINED: vectors(["i0", "i1", "i2"], ["i0", "i1", "i2"], 3)}


def reasons(made: Mapping[str, Vectors], joint: bool = False, captioner: bool = False) -> dict[str, str]:
    """Of pictures with captions and no labels: why the model is not measured, by task."""
    tasks, inputs = built(
        groups=GROUPS.with_columns(object_set=pl.lit(None, dtype=pl.String)),
        generated=MACHINE if captioner else MACHINE[:0],
    )
    texts = {name: one.rows for name, one in inputs.items() if "text" in one.reads}
    whole = corpus(made, joint, texts)
    found = {
        name: explain_unmeasured(task, whole, "pair", list_retrievers(task, whole, params()))
        for name, task in tasks.items()
    }
    return {name: why for name, why in found.items() if why is not None}


def test_two_separate_towers_are_named_with_what_would_measure_them() -> None:
    told = reasons(PIXELS | WORDS)
    assert list(told) == ["caption_to_image", "image_to_caption"]  # caption_to_caption measures the text tower
    why = told["caption_to_image"]
    assert why.startswith("caption_to_image: pair is not measured, as its two towers share no space")
    assert "`-S model=vit-b-32`" in why
    assert "`-S captioner=blip-base`" in why


def test_with_a_captioner_or_a_shared_space_there_is_nothing_to_explain() -> None:
    assert not reasons(PIXELS | WORDS | {GENERATED: vectors(IDS, IDS, 4)}, captioner=True)
    assert not reasons(PIXELS | WORDS, joint=True)


@pytest.mark.parametrize(
    ("made", "said", "tasks"),
    [
        (PIXELS, "it has no text tower", ["caption_to_image", "image_to_caption", "caption_to_caption"]),
        (WORDS, "it has no image tower", ["caption_to_image", "image_to_caption"]),
    ],
    ids=["pixels", "words"],
)
def test_a_tower_that_is_missing_is_named(made: dict[str, Vectors], said: str, tasks: list[str]) -> None:
    told = reasons(made)
    assert list(told) == tasks
    assert all(said in why for why in told.values())


def test_reasons_are_read_as_written_and_older_results_have_none(tmp_path: Path) -> None:
    assert read_unmeasured(tmp_path) == []
    write_unmeasured(["a: é"], tmp_path)
    assert read_unmeasured(tmp_path) == ["a: é"]
