"""params.yaml: every card is complete, and every mistake is refused by name."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import yaml
from dvc.utils.hydra import apply_overrides
from open_clip.pretrained import get_pretrained_cfg

from tests import workspace
from twinlens import datasets
from twinlens.config.base import describe_card
from twinlens.config.cards import Cards
from twinlens.config.datasets import ComposedCard, HubFiles, ImageNetCard
from twinlens.config.load import check_cards, read_params
from twinlens.config.models import (
    EndpointTower,
    OpenClipTower,
    TimmTower,
    TorchvisionTower,
    VectorsTower,
    WordVectorsTower,
)
from twinlens.core.errors import ParamsError
from twinlens.datasets.classes import read_classes

PARAMS = read_params()
DEFAULT = {"dataset": "scenes", "model": "clip-scenes", "captioner": "blip-scenes"}


def chosen(folder: Path, change: dict[str, Any]) -> Path:
    """A copy of params.yaml and the cards with some keys set to other values (None removes).

    Its names are the default's, whatever the last `dvc exp run -S` left.
    """
    shutil.copytree("cards", folder / "cards")
    text = Path("params.yaml").read_text(encoding="utf-8")
    for kind, name in DEFAULT.items():
        text = re.sub(rf"^{kind}: .*", f"{kind}: {name}", text, flags=re.MULTILINE)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    for name, value in change.items():
        if value is not None:
            workspace.change(folder, {name: value})
            continue
        file, _, dotted = name.rpartition(":")
        path = folder / (file or "params.yaml")
        *parents, last = dotted.split(".")
        content = node = yaml.safe_load(path.read_text(encoding="utf-8"))
        for parent in parents:
            node = node[parent]
        del node[last]
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder / "params.yaml"


def refused(folder: Path, change: dict[str, Any]) -> str:
    """What `validate` says."""
    path = chosen(folder, change)
    with pytest.raises(ParamsError) as caught:
        check_cards(read_params(path))
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": "vit-l14"}, "model: 'vit-l14' has no card in cards/models (did you mean 'vit-l-14'?"),
        ({"dataset": "coc"}, "did you mean 'coco'?"),
        ({"captioner": "blip-bse"}, "did you mean 'blip-base'?"),
        ({"resize.shortest_sied_px": 3}, "resize.shortest_sied_px: no such key (did you mean 'shortest_side_px'?"),
        ({"evalaute": {}}, "evalaute: no such key (did you mean 'evaluate'?"),
        ({"modell": "vit-b-32"}, "; take `modell` out of the file"),
        (
            {"train": {"epochs": 1}},
            "train: no key of params.yaml, but one of cards: -S 'cards/models/clip-scenes.yaml:train.epochs=1' or "
            "-S 'cards/captioners/blip-scenes.yaml:train.epochs=1'; take `train` out of the file",
        ),
        ({"cards/models/fasttext.yaml:text.pooling": "none"}, "`pooling: none` leaves a text's words apart, which"),
        (
            {"cards/models/fasttext.yaml:text.poolng": "mean"},
            "cards/models/fasttext.yaml: text.poolng: no such key (did you mean 'pooling'?",
        ),
        (
            {"cards/models/fasterrcnn.yaml:image.weights": None},
            "name a source: `weights` as torchvision names them (COCO_V1), or a `checkpoint`",
        ),
        (
            {"cards/models/vit-l-14.yaml:joint.pretraind": "x"},
            "cards/models/vit-l-14.yaml: joint.pretraind: no such key",
        ),
        ({"cards/datasets/scenes.yaml:tset": 9}, "cards/datasets/scenes.yaml: tset: no such key (did you mean 'test'?"),
        ({"cards/datasets/scenes.yaml:adapter": "scene"}, "cards/datasets/scenes.yaml: Input tag 'scene' found using"),
        ({"group": None}, "group: missing"),
        ({"compute.parts": "https://host/x"}, "compute.parts: wanted a folder, or a bucket such as s3://bucket/folder"),
        ({"compute.parts": " "}, "compute.parts: wanted a folder, or a bucket"),
        ({"compute.parts": "s3:///x"}, "s3:///x: names no bucket"),
        ({"compute.parts": "s3://AKIA:secret@photos/x"}, "s3://…@photos: a URL with credentials"),
        ({"rank.depth": "deep"}, "rank.depth: Input should be a valid integer"),
        ({"rank.image_weight": 1.5}, "rank.image_weight: Input should be less than 1, found 1.5"),
        ({"category_search.prompt": "a picture"}, "category_search.prompt: String should match pattern"),
        (
            {"category_search.standard.lambda_w": 0},
            "category_search.standard.lambda_w: Input should be greater",
        ),
        ({"category_search.standard.lamda_q": 1}, "lamda_q: no such key (did you mean 'lambda_q'?"),
        ({"rank.depth": 5}, "10 is more than rank.depth, 5"),
        ({"evaluate.ks": [5, 1]}, "must rise"),
        ({"evaluate.ks": []}, "evaluate.ks"),
        (
            {"cards/models/minilm.yaml:text.timm": "resnet50"},
            "cards/models/minilm.yaml: text: a tower is named by one key",
        ),
        ({"cards/models/minilm.yaml:joint": {"open_clip": "RN50"}}, "`joint` holds both towers"),
        ({"cards/models/minilm.yaml:text.revision": "main"}, "cards/models/minilm.yaml: text.revision"),
        (
            {"cards/models/jina-clip-v2.yaml:joint": {"transformers": "a/b", "trust_remote_code": True}},
            "pin `revision` and `code_revision`",
        ),
        ({"cards/models/jina-clip-v2.yaml:joint.dimensions": 0}, "cards/models/jina-clip-v2.yaml: joint.dimensions"),
        ({"cards/models/jina-clip-v2.yaml:joint.revision": "main"}, "cards/models/jina-clip-v2.yaml: joint.revision"),
        ({"cards/models/clip-scenes.yaml:train": None}, "needs `train` or a `checkpoint`"),
        ({"cards/models/clip-scenes.yaml:train.objective": "clop"}, "cards/models/clip-scenes.yaml: train.objective"),
        ({"cards/captioners/blip-base.yaml:hub": None}, "name a source"),
        (
            {"cards/captioners/blip-scenes.yaml:max_new_tokens": 40},
            "less than the architecture's `max_position_embeddings`",
        ),
        (
            {"cards/captioners/blip-scenes.yaml:architecture.vision_config": {}},
            "lacks a number at vision_config.image_size",
        ),
        (
            {"cards/models/clip-scenes.yaml:joint.architecture.embed_dim": "big"},
            "embed_dim is 'big', wanted a whole number from 1",
        ),
        (
            {"dataset": "objectnet"},
            "dataset 'objectnet' says `selection: never`: its licence (ObjectNet's own; no para",
        ),
        (
            {"cards/datasets/vehicles.yaml:keep.threshold": 1.5},
            "cards/datasets/vehicles.yaml: keep.threshold: Input should be less than 1",
        ),
        (
            {"cards/datasets/vehicles.yaml:keep.thresold": 0.5},
            "cards/datasets/vehicles.yaml: keep.thresold: no such key",
        ),
        ({"cards/datasets/vehicles.yaml:queries.adapter": "flickr"}, "cards/datasets/vehicles.yaml: queries"),
        ({"cards/datasets/flickr30k.yaml:revision": "main"}, "cards/datasets/flickr30k.yaml: revision"),
        ({"cards/datasets/flickr30k.yaml:revision": None}, "pin the hub's repository with `revision`"),
        ({"cards/datasets/objectnet.yaml:selection": "allowed"}, "cards/datasets/objectnet.yaml: selection"),
        ({"group.drop_duplicates": "all"}, "group.drop_duplicates"),
    ],
)
def test_a_mistake_is_refused_and_named(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    assert expected in re.sub(r", line \d+", "", refused(tmp_path, change))


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("models/a.yaml", "", "cards/models/a.yaml is empty: write the card, or remove the file"),
        ("models/a.yaml", "# only a remark\n", "cards/models/a.yaml is empty"),
        ("models/a.yaml", "- 1\n", "cards/models/a.yaml should hold keys and values, found list"),
        (
            "models/a.yaml",
            "image:\n  timm: [1\n",
            "cards/models/a.yaml, line 3 is not valid YAML: did not find expected",
        ),
        (
            "models/a.yaml",
            "# one\nimage:\n  tim: x\n",
            "cards/models/a.yaml, line 2: image: a tower is named by one key",
        ),
        (
            "models/a.yaml",
            "image:\n  timm: x\n  kwargs: 1\n",
            "a.yaml, line 3: image.kwargs: Input should be a valid dict",
        ),
        (
            "models/a.yaml",
            "image:\n  timm: x\nlicence: MIT\n",
            "line 3: licence: no such key (known: about, base, image,",
        ),
        (
            "models/a.yaml",
            "about: {licens: MIT}\nimage: {timm: x}\n",
            "line 1: about.licens: no such key (did you mean 'lice",
        ),
        ("models/a.yaml", "base: vgg16\n", "line 1: base: there is no card 'vgg16' (did you mean 'models/vgg16'?"),
        ("models/a.yaml", "base: 3\n", "a.yaml, line 1: base should name a card, such as `models/vgg16`, or a part"),
        (
            "models/a.yaml",
            "\nimage:\n  base: models/vgg16.imag\n",
            "line 3: image.base: 'models/vgg16' has no part 'imag'",
        ),
        ("models/a.yaml", "base: models/a\n", "a card cannot be its own base (models/a -> models/a)"),
        (
            "models/Vit-L-14.yaml",
            "image: {timm: x}\n",
            "Vit-L-14.yaml and cards/models/vit-l-14.yaml differ in case only",
        ),
        (
            "models/Vit.L.yaml",
            "image: {timm: x}\n",
            "cards/models/Vit.L.yaml: 'Vit.L' is not a usable name; lower-case",
        ),
        (
            "models/a b.yaml",
            "image: {timm: x}\n",
            "'a b' is not a usable name; lower-case letters, digits, - and _ only",
        ),
        (
            "models/a.yml",
            "image: {timm: x}\n",
            "cards/models/a.yml: a card is a file cards/models/<name>.yaml; rename it",
        ),
        ("models/mine/a.yaml", "image: {timm: x}\n", "cards/models/mine: a card is a file cards/models/<name>.yaml"),
        ("model/a.yaml", "image: {timm: x}\n", "cards/model: no such kind of card (did you mean 'models'?"),
    ],
)
def test_a_card_that_cannot_be_read_is_refused_and_named(tmp_path: Path, file: str, text: str, expected: str) -> None:
    path = chosen(tmp_path, {})
    (tmp_path / "cards" / file).parent.mkdir(exist_ok=True)
    (tmp_path / "cards" / file).write_text(text)
    read_params(path)  # a stage reads its own cards only
    with pytest.raises(ParamsError) as caught:
        check_cards(read_params(path))
    message = str(caught.value).replace(f"{tmp_path}/", "")
    assert expected in message
    assert "the cards have 1 problem(s); nothing was run" in message


def test_bases_in_a_circle_are_refused(tmp_path: Path) -> None:
    message = refused(
        tmp_path,
        {
            "cards/models/a.yaml:": {"image": {"base": "models/b.image"}},
            "cards/models/b.yaml:": {"base": "models/c"},
            "cards/models/c.yaml:": {"base": "models/a"},
        },
    )
    assert (
        "cards/models/c.yaml, line 1: base: a card cannot be its own base (models/a -> models/b -> models/c -> mod"
        in message
    )


def test_a_mistake_in_a_base_is_told_once_where_it_stands(tmp_path: Path) -> None:
    message = refused(tmp_path, {"cards/models/fasttext.yaml:text.poolng": "mean"})
    assert message.count("\n") == 1
    assert "cards/models/fasttext.yaml, line " in message


def test_a_card_begins_with_its_base_and_a_part_with_a_part(tmp_path: Path) -> None:
    one = {
        "base": "models/clip-scenes",
        "about": {"note": "slower"},
        "train": {"epochs": 9},
        "joint": {"architecture": {"vision_cfg": {"layers": [2, 2, 2, 2]}}},
    }
    other = {"base": "models/a", "train": {"base": "models/siglip-scenes.train", "seed": 3}}
    params = read_params(chosen(tmp_path, {"cards/models/a.yaml:": one, "cards/models/b.yaml:": other}))
    base = keys(PARAMS.models["clip-scenes"].model_dump(mode="json"))
    a, b = (keys(params.models[name].model_dump(mode="json")) for name in ("a", "b"))
    assert {name: a[name] for name in a if a[name] != base[name]} == {
        "train.epochs": 9,
        "joint.architecture.vision_cfg.layers": [2, 2, 2, 2],
    }
    assert (b["train.objective"], b["train.epochs"], b["train.seed"]) == (
        "siglip",
        base["train.epochs"],
        3,
    )  # none of a's `train`
    assert b["joint.architecture.vision_cfg.layers"] == [2, 2, 2, 2]
    assert params.models["b"].about.note == "slower"
    assert read_params().models["clip-scenes"] == PARAMS.models["clip-scenes"]  # bases stay as they are


@pytest.mark.parametrize("cards", [PARAMS.datasets, PARAMS.models, PARAMS.captioners], ids=lambda cards: cards.kind)
def test_nothing_that_a_key_is_made_of_has_what_is_about_a_card(cards: Cards[Any]) -> None:
    for name, card in cards.items():
        assert "about" not in json.dumps(card.model_dump(mode="json"))
        assert '"about"' not in json.dumps(cards[name].model_dump(mode="json"))
    told = {"licence": "Apache-2.0", "parameters": 109_486_464, "dims": 768, "context_tokens": 384, "languages": ["en"]}
    assert describe_card(PARAMS.models["mpnet"])["text"]["about"] == told


def test_what_a_model_was_trained_on_and_where_pictures_come_from_decide_no_result(tmp_path: Path) -> None:
    """They stand on cards, are shown to people, and are in nothing that a key or a stage's parameters are made of."""
    blip, photos = PARAMS.captioners["blip-base"], PARAMS.datasets["coco-karpathy"]
    assert {"coco", "visual-genome"} <= set(blip.trained_on)
    assert photos.origins == ["coco"]
    assert PARAMS.datasets["vehicles"].origins == ["flickr30k", "imagenet-1k"]  # of both parts
    assert PARAMS.models["effnetv2-s-mpnet"].trained_on == ["coco", "flickr30k", "imagenet-1k", "imagenet-22k"]
    assert PARAMS.models["clip-scenes"].trained_on == PARAMS.datasets["scenes"].origins == []
    assert describe_card(PARAMS.models["vit-b-32"])["joint"]["trained_on"] == ["laion-2b"]
    assert describe_card(photos)["origin"] == "coco"
    for cards in (PARAMS.datasets, PARAMS.models, PARAMS.captioners):
        for card in cards.values():
            dumped = json.dumps(card.model_dump(mode="json"))
            assert "trained_on" not in dumped
            assert "origin" not in json.loads(dumped)
    assert "origin" in refused(tmp_path, {"cards/datasets/coco.yaml:origin": "MS COCO"})  # one spelling


def test_cards_in_params_yaml_are_answered_with_how_to_move_them(tmp_path: Path) -> None:
    old = {"clip-scenes": {"train": {"epochs": 1}}}
    message = refused(tmp_path, {"models": old})  # as `dvc exp run -S +models.clip-scenes.train.epochs=1` writes it
    assert "params.yaml has cards under `models:`, but cards stand in files of their own" in message
    assert "-S 'cards/models/clip-scenes.yaml:train.epochs=1'" in message
    path = chosen(tmp_path / "whole", {"models": {name: {"image": {"timm": "x"}} for name in "abcdef"}, "datasets": {}})
    with pytest.raises(ParamsError, match=r"`datasets:`, `models:`.* `python tools/move_cards.py` moves"):
        read_params(path)


def test_a_whole_choice_is_read_in_no_time() -> None:
    read_params()
    started = time.process_time()
    read_params()
    assert time.process_time() - started < 0.1  # a stage does it first


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, {"rank.depth": -1, "resize.jpeg_quality": 200, "group": None})
    assert "3 problem(s); nothing was run" in message
    assert all(key in message for key in ("rank.depth", "resize.jpeg_quality", "group"))


@pytest.mark.parametrize(("text", "expected"), [("a: [1", "not valid YAML"), ("just words", "keys and values")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=expected):
        read_params(tmp_path / "params.yaml")


def test_a_missing_file_says_where_to_stand(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="root of the repository"):
        read_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("name", sorted(PARAMS.models))
def test_every_model_card_is_known_to_its_library_and_says_its_licence(name: str) -> None:
    for tower in PARAMS.models[name].towers().values():
        if isinstance(tower, OpenClipTower) and tower.open_clip != "custom":
            assert tower.open_clip in open_clip.list_models()
            assert tower.pretrained is not None
            tag = get_pretrained_cfg(tower.open_clip, tower.pretrained)
            assert tag, f"{tower.open_clip} has no tag {tower.pretrained}"
            quick = bool(open_clip.get_model_config(tower.open_clip).get("quick_gelu"))
            assert bool(tag.get("quick_gelu")) == quick
        if isinstance(tower, TimmTower):
            architecture, _, tag_name = tower.timm.partition(".")
            assert timm.is_model(architecture)
            assert not tag_name or tower.timm in timm.list_pretrained(f"{architecture}.*")
        trained = PARAMS.models[name].train is not None
        assert trained or tower.about.licence or name == "multi-qa-mpnet", "a card says the licence of its weights"


UNPINNED = {
    "effnetv2-m",
    "vit-medium",
    "effnetv2-m-mpnet",
    "vgg16",
    "resnet50",
}  # their commits could not be learned without the hub

OF_NO_HUB = (TorchvisionTower, WordVectorsTower, VectorsTower, EndpointTower)  # torchvision's names hold a digest


@pytest.mark.parametrize("name", sorted(PARAMS.models))
def test_every_hub_card_is_pinned_to_a_commit(name: str) -> None:
    for tower in PARAMS.models[name].towers().values():
        if isinstance(tower, OF_NO_HUB):
            continue
        fetched = PARAMS.models[name].train is None and tower.checkpoint is None
        pinned = tower.revision is not None
        told = "could not be learned" in (tower.about.note or "")
        assert pinned or not fetched or told or (name in UNPINNED and isinstance(tower, TimmTower))


@pytest.mark.parametrize("name", sorted(PARAMS.captioners))
def test_every_captioner_card_has_a_source_and_is_pinned(name: str) -> None:
    card = PARAMS.captioners[name]
    assert card.captioner == "none" or card.train is not None or (card.hub and card.revision and card.about.licence)


def test_captioners_of_today_have_cards_that_say_what_to_write() -> None:
    named = {"florence-2-base", "qwen3-vl-2b", "smolvlm2-500m", "paligemma-2-3b", "gemma-3-4b"}
    prompted = {name: card for name, card in PARAMS.captioners.items() if card.captioner == "transformers"}
    assert named <= set(prompted)
    assert all(card.prompt and card.max_new_tokens >= 40 for card in prompted.values())


def test_what_may_not_be_tuned_on_may_still_be_measured_on_and_says_why_it_may_not() -> None:
    changed = {"dataset": "objectnet", "model": "vit-l-14", "captioner": "none"}
    params = PARAMS.model_copy(update=changed)
    with pytest.raises(
        ParamsError, match=r"allows no parameter to be tuned on it, and the weight of the text would be"
    ):
        params.refuse_selection("the weight of the text would be chosen on it")
    PARAMS.refuse_selection("anything")  # the default allows it


@pytest.mark.parametrize("name", sorted(PARAMS.datasets))
def test_every_dataset_card_pins_what_it_takes_from_the_hub_and_names_known_classes(name: str) -> None:
    card = PARAMS.datasets[name]
    parts = [card.queries, card.distractors] if isinstance(card, ComposedCard) else [card]
    for part in parts:
        assert not isinstance(part, HubFiles) or part.revision or part.source
        assert not isinstance(part, ImageNetCard) or read_classes(part.classes)
    if card.keep is not None and card.keep.classes is not None:
        assert read_classes(card.keep.classes)


def test_the_datasets_of_all_source_projects_have_cards() -> None:
    wanted = (
        "coco coco-karpathy flickr30k flickr8k imagenet-vehicles imagenet-vehicles-wordnet objectnet roco imageclef"
    )
    assert set(f"{wanted} my-folder my-shards vehicles scenes-vehicles".split()) <= set(PARAMS.datasets)
    assert {card.adapter for card in PARAMS.datasets.values()} == set(datasets.CLASSES)


@pytest.mark.parametrize("name", sorted(PARAMS.datasets))
def test_every_dataset_card_has_an_adapter_and_a_licence(name: str) -> None:
    assert datasets.make_adapter(PARAMS.datasets[name])
    assert PARAMS.datasets[name].about.licence


def test_the_models_of_the_first_source_project_all_have_cards() -> None:
    wanted = "vit-b-32 vit-l-14 rn50 siglip-b-16 metaclip-h-14 jina-clip-v2 effnetv2-s effnetv2-m effnetv2-l vit-medium"
    wanted += " deit3 caformer mpnet multi-qa-mpnet distilroberta minilm bge-large effnetv2-s-mpnet caformer-mpnet"
    assert set(wanted.split()) <= set(PARAMS.models)
    assert {"blip-base", "blip-large", "blip2", "git"} <= set(PARAMS.captioners)


def test_the_features_of_source_002_all_have_cards() -> None:
    assert {"vgg16", "resnet50", "fasterrcnn", "fasttext", "bert-base", "bert-base-cls"} <= set(PARAMS.models)


def keys(card: dict[str, Any], at: str = "") -> dict[str, Any]:
    """Values by dotted name."""
    found: dict[str, Any] = {}
    for name, value in card.items():
        found |= keys(value, f"{at}{name}.") if isinstance(value, dict) else {at + name: value}
    return found


@pytest.mark.parametrize(
    ("model", "of", "differs"),
    [
        ("heads-unit", "heads-002", {"train.heads.unit_input", "train.heads.unit_length"}),
        ("heads-all", "heads-unit", {"train.negatives"}),
        ("heads-semi-hard", "heads-unit", {"train.negatives"}),
        ("heads-hardest", "heads-unit", {"train.negatives"}),
        ("heads-infonce-large", "heads-unit", {"train.objective"}),
    ],
)
def test_a_repair_changes_one_thing(model: str, of: str, differs: set[str]) -> None:
    one, other = (keys(PARAMS.models[name].model_dump(mode="json")) for name in (model, of))
    assert {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)} == differs


@pytest.mark.parametrize("file", ["params.yaml", *sorted(map(str, Path("cards").glob("*/*.yaml")))])
def test_dvc_leaves_all_other_lines_as_they_are(file: str, tmp_path: Path) -> None:
    """`dvc exp run -S` writes a file anew: long lines would be folded, `null`, [lists] and ~ rewritten."""
    before = Path(file).read_text(encoding="utf-8")
    path = tmp_path / "copy.yaml"
    path.write_text(before, encoding="utf-8")
    apply_overrides(path, ["+new=1"])
    assert path.read_text(encoding="utf-8") == before + "new: 1\n"


def test_settings_can_be_read_from_top_to_bottom() -> None:
    assert len(Path("params.yaml").read_text(encoding="utf-8").splitlines()) < 150
