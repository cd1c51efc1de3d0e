"""Classifiers of transformers: tiny random ones in the library's own layout, from a folder and from the hub."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from huggingface_hub import close_session
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

from tests.datasets.adapters.pictures import encoded
from tests.hub import COMMIT, point_at, serving_hub
from tests.tiny import CPU, photo, sizes, spread
from twinlens.config.datasets import Keep, TransformersClassifier
from twinlens.config.params import ComputeParams
from twinlens.core.errors import DataError
from twinlens.datasets.classes import read_classes, read_wordnet_ids
from twinlens.engines import LocalEngine
from twinlens.inference.classify import sum_class_shares
from twinlens.models import classifiers
from twinlens.models.classifiers.base import refuse_other_classes
from twinlens.models.image_processor import read_pixel_spec, refuse_other_pixels

KNOWN, IDS = read_classes("imagenet-1k"), read_wordnet_ids("imagenet-1k")
VEHICLES = sorted(read_classes("vehicles-49"))
NAMES = {index: f"{label}, {IDS[index]}" for index, label in KNOWN.items()}  # as WordNet's synonyms, each name once


def save(folder: Path, names: dict[int, str] | None = None, labels: int = 1000, **settings: Any) -> Path:
    named = {"id2label": names, "label2id": {label: index for index, label in names.items()}} if names else {}
    config = ViTConfig(image_size=32, patch_size=16, **(named or {"num_labels": labels}), **sizes())
    spread(ViTForImageClassification(config), scale=0.4).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}, **settings).save_pretrained(folder)
    return folder


def card(folder: Path) -> TransformersClassifier:
    return TransformersClassifier(transformers="someone/tiny", checkpoint=str(folder))


def shares(pictures: list[bytes], tower: TransformersClassifier, classes: list[int] = VEHICLES) -> np.ndarray:
    files = [f"{n}.jpg" for n in range(len(pictures))]
    by_name = dict(zip(files, pictures, strict=True))

    def read(some: Sequence[str]) -> Iterator[bytes | str]:
        return (by_name[name] for name in some)

    engine = LocalEngine(ComputeParams(device="cpu", decode_threads=2, image_batch=None, text_batch=None), CPU)
    return sum_class_shares(lambda: nullcontext(read), files, tower, classes, engine, raw="raw", max_megapixels=100)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("classifier") / "vit", NAMES)


PICTURES = [encoded(Image.fromarray(photo(n, 90 + 20 * n, 130 - 10 * n))) for n in range(5)]


def test_the_share_is_the_sum_of_what_the_librarys_own_pipeline_says(tiny: Path) -> None:
    theirs = pipeline("image-classification", model=str(tiny), top_k=1000)
    wanted = {NAMES[index] for index in VEHICLES}
    expected = [
        sum(row["score"] for row in theirs(Image.open(io.BytesIO(raw))) if row["label"] in wanted) for raw in PICTURES
    ]
    assert np.ptp(expected) > 0.02  # pictures are told apart
    assert shares(PICTURES, card(tiny)) == pytest.approx(expected, abs=1e-3)
    assert shares(PICTURES, card(tiny), list(KNOWN)) == pytest.approx(1.0)


def test_from_the_hub_it_is_taken_at_the_pinned_commit_and_only_what_is_needed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {file.name: file.read_bytes() for file in tiny.iterdir()} | {"pytorch_model.bin": b"x", "README.md": b"x"}
    with serving_hub({"someone/tiny": files}) as hub:
        point_at(hub.url, tmp_path / "cache", monkeypatch)
        found = shares(PICTURES, TransformersClassifier(transformers="someone/tiny", revision=COMMIT))
        close_session()
    assert sorted(set(hub.fetched())) == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert found.tolist() == shares(PICTURES, card(tiny)).tolist()


# ---------------------------------------------------------------- classes


def swapped() -> dict[int, str]:
    return NAMES | {407: NAMES[436], 436: NAMES[407]}


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (None, 10, "someone/tiny tells 10 classes apart; wanted ImageNet's 1,000"),
        (None, 1001, r"tells 1,001 classes apart \(1,001 are often these with a background in front\); wanted"),
        (swapped(), 1000, "calls class 407 'beach wagon, .*in ImageNet's order it is 'ambulance' .*in another order"),
        ({n: f"species {n}" for n in range(1000)}, 1000, r"for 0 of its 1,000 classes \(the first: 'species 0', want"),
    ],
)
def test_other_classes_or_another_order_are_refused(
    names: dict[int, str] | None, labels: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        classifiers.load(card(save(tmp_path / "m", names, labels)), tmp_path / "m", CPU)


@pytest.mark.parametrize(
    "name",
    [
        lambda n: KNOWN[n],
        lambda n: KNOWN[n].replace(" ", "_").upper(),
        lambda n: IDS[n],
        lambda n: KNOWN[n] if n % 3 else f"a better name {n}",
    ],
)
def test_the_ways_of_naming_imagenets_classes_are_known(name: Callable[[int], str]) -> None:
    refuse_other_classes("m", 1000, {n: name(n) for n in KNOWN})


def test_swapped_wordnet_ids_and_numbers_from_one_are_refused() -> None:
    with pytest.raises(DataError, match=r"calls class 0 'n01443537', in ImageNet's order it is 'tench'"):
        refuse_other_classes("m", 1000, IDS | {0: IDS[1], 1: IDS[0]})
    with pytest.raises(DataError, match="numbers its classes from 1 to 1000; wanted 0 to 999"):
        refuse_other_classes("m", 1000, {n + 1: label for n, label in KNOWN.items()})


def test_names_that_the_library_made_up_say_nothing_of_the_order(tmp_path: Path) -> None:
    classifiers.load(card(save(tmp_path / "m")), tmp_path / "m", CPU)


# ---------------------------------------------------------------- weights and pixels


def test_a_folder_without_all_of_a_classifier_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "m", NAMES)
    weights = load_file(folder / "model.safetensors")
    headless = {name: value for name, value in weights.items() if not name.startswith("classifier.")}
    save_file(headless, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 2 of the model's \d+ parameters, the first is classifier\.weight"):
        classifiers.load(card(folder), folder, CPU)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"does not hold an image classifier of transformers: .*model\.safetensors"):
        classifiers.load(card(folder), folder, CPU)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "id2label": NAMES}))
    with pytest.raises(DataError, match="does not hold an image classifier of transformers"):
        classifiers.load(card(folder), folder, CPU)
    with pytest.raises(DataError, match="is a file; a transformers classifier's `checkpoint` is the folder with conf"):
        classifiers.locate(card(tiny / "config.json"))


def test_a_classifier_of_many_classes_at_once_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "m", NAMES)
    config = json.loads((folder / "config.json").read_text()) | {"problem_type": "multi_label_classification"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="gives every class a probability of its own; wanted one that decides"):
        classifiers.load(card(folder), folder, CPU)


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Beit", "MobileNetV2", "CLIP", "Bit"])
def test_processors_that_do_what_their_settings_say_are_taken(kind: str, tmp_path: Path) -> None:
    processor = getattr(transformers, f"{kind}ImageProcessor")()
    refuse_other_pixels(processor, read_pixel_spec(processor), tmp_path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Levit", r"its LevitImageProcessor makes other pixels of a test picture than its settings say \(apart by 6"),
        ("EfficientNet", "settings that are not known here: include_top: True"),
        ("MobileViT", "settings that are not known here: do_flip_channel_order: True"),
        ("ConvNext", r"settings that are not known here: crop_pct: 0\.875"),
    ],
)
def test_processors_that_do_more_than_their_settings_say_are_refused(kind: str, message: str, tmp_path: Path) -> None:
    processor = getattr(transformers, f"{kind}ImageProcessor")()
    with pytest.raises(DataError, match=message):
        refuse_other_pixels(processor, read_pixel_spec(processor), tmp_path)


# ---------------------------------------------------------------- cards


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        ({"resnet": "x"}, "a classifier is named by one key: `timm` or `transformers`"),
        ({"timm": "x", "transformers": "y"}, "a classifier is named by one key"),
        ({"transformers": "a/b"}, "pin the classifier with `revision`, or name its folder as `checkpoint`"),
        ({"transformers": "a/b", "revision": "main"}, "revision"),
        ({"transformers": "a/b", "checkpoint": "x", "pooling": "mean"}, "pooling"),
        ({"transformers": "a/b", "checkpoint": "x", "sha256": "0" * 64}, "`sha256` is of a file"),
    ],
)
def test_a_card_that_names_no_classifier_is_refused(classifier: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Keep.model_validate({"classifier": classifier, "classes": "vehicles-49", "threshold": 0.6})
