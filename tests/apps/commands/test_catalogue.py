"""`twinlens models` and `twinlens datasets`: the cards, and what of them is here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.apps.commands.conftest import Done
from tests.indexing.conftest import CAPTIONER, DATASET, MODEL, POOL
from tests.models.encoders.test_timm import save
from twinlens.apps.web.shelf import Shelf
from twinlens.config.base import GOLDEN_NUMBERS
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.indexing.manifest import Manifest, locate_copy

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


def test_golden_vectors_are_written_on_the_card_of_weights_that_are_here(
    twinlens: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("cards", tmp_path / "cards")
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    tower = save("test_resnet", tmp_path / "weights")
    card = tmp_path / "cards/models/tiny.yaml"
    text = f"image:\n  timm: test_resnet\n  checkpoint: {tower.checkpoint}\n"
    card.write_text(text, encoding="utf-8")
    done = twinlens("models", "--golden", "tiny")
    assert (done.code, done.out) == (0, "cards/models/tiny.yaml: golden vectors of timm test_resnet\n")
    golden = read_params().models["tiny"].towers()["image"].about.golden
    assert golden is not None and golden.pictures is not None and golden.texts is None
    assert len(golden.pictures) == GOLDEN_NUMBERS
    written = card.read_text(encoding="utf-8")
    assert written.startswith(text)
    assert twinlens("models", "--golden", "tiny").code == 0  # once more changes nothing
    assert card.read_text(encoding="utf-8") == written
    assert "did you mean 'tiny'?" in twinlens("models", "--golden", "tinny").err
    assert "clip-scenes is trained from nothing: there are no weights" in twinlens("models", "--golden", MODEL).err


@pytest.mark.usefixtures("copy")
def test_an_index_that_cannot_answer_is_not_listed_as_one_and_one_that_can_is(twinlens: Command) -> None:
    def listed(name: str) -> list[str]:
        lines = twinlens("models").out.splitlines()
        return next(line.split("\t")[-3:] for line in lines if line.split("\t")[0].removesuffix(" *") == name)

    for folder in (paths.trained, paths.embedded):
        shutil.rmtree(folder(DATASET, MODEL))
        shutil.rmtree(folder(DATASET, "words"))
    for name in (MODEL, "words"):
        paths.indexed(DATASET, name, CAPTIONER).unlink()
    shutil.rmtree(Manifest.read(locate_copy(DATASET, "words", CAPTIONER)).folder)
    assert listed(MODEL) == ["-", "-", "yes"]  # the index keeps what it needs
    assert listed("words") == ["-", "-", "-"]
    names = [name.model for name in Shelf(read_params()).names()]
    assert MODEL in names
    assert "words" not in names  # nor does the page offer it


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
