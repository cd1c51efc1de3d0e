"""`twinlens models` and `twinlens datasets`: the cards, and what of them is here."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.apps.commands.conftest import Done
from tests.indexing.conftest import DATASET, MODEL, POOL
from twinlens.config.load import read_params

Command = Callable[..., Done]


@pytest.mark.usefixtures("root")
def test_models_are_listed_with_their_licence_and_what_is_here(twinlens: Command) -> None:
    heading, *lines = twinlens("models").out.splitlines()
    assert heading.split("\t") == ["model", "active", "towers", "licence", "weights", "vectors", "index"]
    assert len(lines) == len(read_params().models)
    by_name = {line.split("\t")[0]: line.split("\t")[1:] for line in lines}
    assert by_name[MODEL] == ["yes", "joint: open_clip custom", "trained here", "yes", "yes", "yes"]
    assert by_name["vit-b-32"] == ["-", "joint: open_clip ViT-B-32 (laion2b_s34b_b79k)", "MIT", "-", "-", "-"]
    assert by_name["apart"][2:] == ["not said", "yes", "yes", "yes"]
    assert by_name["mobilenetv2-minilm"][1] == (
        "image: timm mobilenetv2_100.ra_in1k, text: sentence_transformers sentence-transformers/all-MiniLM-L6-v2"
    )
    found = {one["name"]: one for one in json.loads(twinlens("models", "--json").out)}
    assert (found[MODEL]["active"], found["apart"]["active"]) == (True, False)
    elsewhere = {one["name"]: one for one in json.loads(twinlens("models", "-d", "coco", "--json").out)}
    assert not any(elsewhere[MODEL][key] for key in ("weights", "embedded", "indexed"))


@pytest.mark.usefixtures("root")
def test_an_unknown_dataset_is_answered_with_the_nearest(twinlens: Command) -> None:
    done = twinlens("models", "--dataset", "cocco")
    assert done.code == 2
    assert "did you mean 'coco'?" in done.err


@pytest.mark.usefixtures("root")
def test_datasets_are_listed_with_their_licence_and_their_pictures(twinlens: Command) -> None:
    by_name = {line.split("\t")[0]: line.split("\t")[1:] for line in twinlens("datasets").out.splitlines()}
    used = POOL + 96 + 16
    assert by_name[DATASET] == ["yes", "scenes", "Apache-2.0", "allowed", "yes", str(used), str(POOL)]
    assert by_name["coco"][4:] == ["-", "-", "-"]
    found = {one["name"]: one for one in json.loads(twinlens("datasets", "--json").out)}
    assert set(found) == set(read_params().datasets)
    assert (found["coco"]["pictures"], found["coco"]["here"]) == (None, False)
