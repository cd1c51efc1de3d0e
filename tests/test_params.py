"""params.yaml: every card is complete, and every mistake is refused by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import yaml
from dvc.utils.serialize import modify_yaml
from open_clip.pretrained import get_pretrained_cfg

from twinlens import datasets
from twinlens.config.datasets import ComposedCard, HubFiles, ImageNetCard
from twinlens.config.load import read_params
from twinlens.config.models import OpenClipTower, TimmTower, TorchvisionTower, WordVectorsTower
from twinlens.datasets.classes import read_classes
from twinlens.errors import ParamsError

RAW = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
PARAMS = read_params()


def refused(tmp_path: Path, change: dict[str, Any]) -> str:
    """The message for params.yaml with some keys, dotted, set to other values (None removes)."""
    raw = copy.deepcopy(RAW)
    for dotted, value in change.items():
        *parents, last = dotted.split(".")
        node = raw
        for parent in parents:
            node = node[parent]
        if value is None:
            del node[last]
        else:
            node[last] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(ParamsError) as caught:
        read_params(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": "vit-l14"}, "model: 'vit-l14' has no card under `models` (did you mean 'vit-l-14'?"),
        ({"dataset": "coc"}, "did you mean 'coco'?"),
        ({"captioner": "blip-bse"}, "did you mean 'blip-base'?"),
        ({"resize.shortest_sied_px": 3}, "resize.shortest_sied_px: no such key (did you mean 'shortest_side_px'?"),
        ({"evalaute": {}}, "evalaute: no such key (did you mean 'evaluate'?"),
        ({"models.fasttext.text.pooling": "none"}, "`pooling: none` leaves a text's words apart, which"),
        ({"models.fasttext.text.poolng": "mean"}, "models.fasttext.text.poolng: no such key (did you mean 'pooling'?"),
        (
            {"models.fasterrcnn.image.weights": None},
            "name a source: `weights` as torchvision names them (COCO_V1), or a `checkpoint`",
        ),
        ({"models.vit-l-14.joint.pretraind": "x"}, "models.vit-l-14.joint.pretraind: no such key"),
        ({"datasets.scenes.tset": 9}, "datasets.scenes.tset: no such key (did you mean 'test'?"),
        ({"datasets.scenes.adapter": "scene"}, "datasets.scenes"),
        ({"group": None}, "group: missing"),
        ({"rank.depth": "deep"}, "rank.depth: Input should be a valid integer"),
        ({"rank.image_weight": 1.5}, "rank.image_weight: Input should be less than 1, found 1.5"),
        ({"category_search.prompt": "a picture"}, "category_search.prompt: String should match pattern"),
        ({"category_search.standard.lambda_w": 0}, "category_search.standard.lambda_w: Input should be greater than 0"),
        ({"category_search.standard.lamda_q": 1}, "lamda_q: no such key (did you mean 'lambda_q'?"),
        ({"rank.depth": 5}, "10 is more than rank.depth, 5"),
        ({"evaluate.ks": [5, 1]}, "must rise"),
        ({"evaluate.ks": []}, "evaluate.ks"),
        ({"models.minilm.text.timm": "resnet50"}, "models.minilm.text: a tower is named by one key"),
        ({"models.minilm.joint": {"open_clip": "RN50"}}, "`joint` holds both towers"),
        ({"models.minilm.text.revision": "main"}, "models.minilm.text.revision"),
        ({"models.jina-clip-v2.joint.code_revision": None}, "pin `revision` and `code_revision`"),
        ({"models.clip-scenes.train": None}, "needs `train` or a `checkpoint`"),
        ({"models.clip-scenes.train.objective": "clop"}, "models.clip-scenes.train.objective"),
        ({"captioners.blip-base.hub": None}, "name a source"),
        ({"captioners.blip-scenes.max_new_tokens": 40}, "less than the architecture's `max_position_embeddings`"),
        ({"captioners.blip-scenes.architecture.vision_config": {}}, "lacks a number at vision_config.image_size"),
        ({"models.clip-scenes.joint.architecture.embed_dim": "big"}, "lacks a number at embed_dim"),
        (
            {"dataset": "objectnet"},
            "dataset 'objectnet' says `selection: never`: its licence (ObjectNet's own; no para",
        ),
        ({"datasets.vehicles.keep.threshold": 1.5}, "datasets.vehicles.keep.threshold: Input should be less than 1"),
        ({"datasets.vehicles.keep.thresold": 0.5}, "datasets.vehicles.keep.thresold: no such key"),
        ({"datasets.vehicles.queries.adapter": "flickr"}, "datasets.vehicles.queries"),
        ({"datasets.flickr30k.revision": "main"}, "datasets.flickr30k.revision"),
        ({"datasets.flickr30k.revision": None}, "pin the hub's repository with `revision`"),
        ({"datasets.objectnet.selection": "allowed"}, "datasets.objectnet.selection"),
        ({"group.drop_duplicates": "all"}, "group.drop_duplicates"),
        (
            {"models": {"Vit.L": RAW["models"]["minilm"], "clip-scenes": RAW["models"]["clip-scenes"]}},
            "'Vit.L' is not a usable name",
        ),
    ],
)
def test_a_mistake_is_refused_and_named(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    assert expected in refused(tmp_path, change)


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
        assert trained or tower.licence or name == "multi-qa-mpnet", "a card says under which licence its weights are"


UNPINNED = {
    "effnetv2-m",
    "vit-medium",
    "effnetv2-m-mpnet",
    "vgg16",
    "resnet50",
}  # their commits could not be learned without the hub


@pytest.mark.parametrize("name", sorted(PARAMS.models))
def test_every_hub_card_is_pinned_to_a_commit(name: str) -> None:
    for tower in PARAMS.models[name].towers().values():
        if isinstance(tower, (TorchvisionTower, WordVectorsTower)):  # from no hub; torchvision's names hold a digest
            continue
        fetched = PARAMS.models[name].train is None and tower.checkpoint is None
        pinned = tower.revision is not None
        assert pinned or not fetched or (name in UNPINNED and isinstance(tower, TimmTower))


@pytest.mark.parametrize("name", sorted(PARAMS.captioners))
def test_every_captioner_card_has_a_source_and_is_pinned(name: str) -> None:
    card = PARAMS.captioners[name]
    assert card.captioner == "none" or card.train is not None or (card.hub and card.revision and card.licence)


def test_what_may_not_be_tuned_on_may_still_be_measured_on_and_says_why_it_may_not() -> None:
    changed = {"dataset": "objectnet", "model": "vit-l-14", "captioner": "none"}
    params = type(PARAMS).model_validate(PARAMS.model_dump() | changed)
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
    assert datasets.adapter(PARAMS.datasets[name])
    assert PARAMS.datasets[name].licence


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


def test_dvc_rewrites_one_line_and_no_more(tmp_path: Path) -> None:
    """`dvc exp run -S` writes params.yaml anew: long lines would be folded, `null` and [lists] rewritten."""
    before = Path("params.yaml").read_text(encoding="utf-8")
    path = tmp_path / "params.yaml"
    path.write_text(before, encoding="utf-8")
    with modify_yaml(path) as content:
        content["model"] = "vit-l-14"
    after = path.read_text(encoding="utf-8").splitlines()
    assert [new for old, new in zip(before.splitlines(), after, strict=True) if old != new] == ["model: vit-l-14"]
