"""`twinlens models` and `twinlens datasets`: the cards, and what of them is here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    facts = ["model", "active", "reads", "parameters", "dims", "input px", "languages", "licence", "towers"]
    assert heading.split("\t") == [*facts, "weights", "vectors", "index"]
    assert len(lines) == len(read_params().models)
    by_name = {line.split("\t")[0]: line.split("\t")[1:] for line in lines}
    assert by_name[MODEL][:2] == ["yes", "pictures+words"]
    assert by_name[MODEL][6:] == ["trained here", "joint: open_clip custom", "yes", "yes", "yes"]
    clip = ["-", "pictures+words", "151 M", "512", "224", "en", "MIT", "joint: open_clip ViT-B-32 (laion2b_s34b_b79k)"]
    assert by_name["vit-b-32"] == [*clip, "-", "-", "-"]
    assert by_name["apart"][6] == "not said"
    assert by_name["apart"][8:] == ["yes", "yes", "yes"]
    assert by_name["mobileclip2-s0"][6] == "apple-amlr (no commercial use)"
    assert by_name["mobilenetv2-minilm"][2:4] == ["25 M", "1280/384"]
    assert by_name["mobilenetv2-minilm"][7] == (
        "image: timm mobilenetv2_100.ra_in1k, text: sentence_transformers sentence-transformers/all-MiniLM-L6-v2"
    )
    found = {one["name"]: one for one in json.loads(twinlens("models", "--json").out)}
    assert (found[MODEL]["active"], found["apart"]["active"]) == (True, False)
    elsewhere = {one["name"]: one for one in json.loads(twinlens("models", "-d", "coco", "--json").out)}
    assert not any(elsewhere[MODEL][key] for key in ("weights", "embedded", "indexed"))


@pytest.mark.usefixtures("root")
def test_models_are_sorted_and_filtered_by_what_their_cards_say(twinlens: Command) -> None:
    def listed(*options: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(twinlens("models", *options, "--json").out)
        return found

    small = listed("--licence", "permissive", "--max-params", "500M", "--sort", "parameters", "--reads", "both")
    sizes = [one["parameters"] for one in small]
    assert sizes == sorted(sizes) and max(sizes) <= 500_000_000
    names = {one["name"] for one in small}
    assert {"vit-b-32", "siglip2-b-16", "tipsv2-b-14"} <= names
    assert not {"mobileclip2-s0", "pe-core-l-14-336", "dinov3-b-16", "mpnet"} & names
    assert all(one["commercial_use"] for one in listed("--licence", "commercial"))
    assert "metaclip2-h-14" in {one["name"] for one in listed("--licence", "CC-BY-NC")}
    chinese = {one["name"] for one in listed("--language", "zh")}
    assert {"chinese-clip-b-16", "siglip2-b-16", "nllb-siglip-mrl-base"} <= chinese and "vit-b-32" not in chinese
    assert {one["name"] for one in listed("--reads", "both")}.isdisjoint({"dinov3-b-16", "minilm"})
    last = listed("--sort", "input_px")
    known = [one["input_px"] is not None for one in last]
    assert known == sorted(known, reverse=True)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--max-params", "many"), "'many' is no number of parameters: write 500M, 1.5B or 42000000"),
        (("--max-params", "0"), "'0' is no number of parameters"),
        (("--sort", "colour"), "--sort colour: no such column; there are name, parameters, dims"),
        (("--reads", "video"), "--reads video: a model reads pictures, words or both"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(twinlens: Command, options: tuple[str, str], told: str) -> None:
    done = twinlens("models", *options)
    assert done.code == 2
    assert told in done.err


@pytest.mark.usefixtures("root")
def test_conditions_that_no_model_meets_are_answered_with_a_word(twinlens: Command) -> None:
    done = twinlens("models", "--max-params", "1k")
    assert len(done.out.splitlines()) == 1
    assert "models meets these conditions" in done.err


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
