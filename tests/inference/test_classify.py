"""The classifier that decides what is a vehicle: on a tiny random model, and the real one on real photos."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.datasets.adapters.pictures import jpeg
from twinlens.config.datasets import ClassifierCard, ImageNetCard
from twinlens.config.models import TimmTower
from twinlens.config.params import ComputeParams
from twinlens.core.device import Placement
from twinlens.core.errors import DataError, ParamsError
from twinlens.datasets.adapters.imagenet import ImageNet
from twinlens.datasets.classes import read_classes
from twinlens.datasets.keep import measure_agreement
from twinlens.datasets.pictures import open_pictures
from twinlens.engines import LocalEngine
from twinlens.inference import classify
from twinlens.inference.classify import sum_class_shares
from twinlens.models import classifiers
from twinlens.models.classifiers.base import Classifier

CPU = Placement(torch.device("cpu"), torch.float32)
ENGINE = LocalEngine(ComputeParams(device="cpu", decode_threads=2, image_batch=None, text_batch=None), CPU)
VEHICLES = sorted(read_classes("vehicles-49"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), path)
    return path


def card(path: Path, **changes: Any) -> TimmTower:
    return TimmTower.model_validate({"timm": "test_resnet", "checkpoint": str(path)} | changes)


def shares(
    pictures: list[bytes | str],
    tower: ClassifierCard,
    classes: list[int] = VEHICLES,
    raw: str = "raw",
    engine: LocalEngine = ENGINE,
) -> np.ndarray:
    files = [f"{n}.jpg" for n in range(len(pictures))]
    by_name = dict(zip(files, pictures, strict=True))

    def read(some: Sequence[str]) -> Iterator[bytes | str]:
        return (by_name[name] for name in some)

    return sum_class_shares(lambda: nullcontext(read), files, tower, classes, engine, raw=raw, max_megapixels=100)


@pytest.mark.slow
@pytest.mark.usefixtures("bucket_host")
def test_parts_in_a_bucket_give_the_same_shares(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "PER_PART", 2)
    kept = LocalEngine(ENGINE.compute.model_copy(update={"parts": "s3://photos/parts"}), CPU)
    pictures: list[bytes | str] = [jpeg(n) for n in range(5)]
    found = shares(pictures, card(weights), engine=kept)
    assert shares(pictures, card(weights)).tolist() == found.tolist()
    monkeypatch.setattr(classifiers, "load", None)  # all are kept
    assert shares(pictures, card(weights), engine=kept).tolist() == found.tolist()


def test_the_share_is_the_summed_softmax_of_timms_own_model_and_transform(weights: Path) -> None:
    model = timm.create_model("test_resnet", checkpoint_path=str(weights)).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    pictures = [jpeg(n) for n in range(5)]
    opened = torch.stack([transform(Image.open(io.BytesIO(raw)).convert("RGB")) for raw in pictures])
    with torch.inference_mode():
        expected = model(opened).softmax(dim=1)[:, VEHICLES].sum(dim=1).numpy()
    assert shares(list(pictures), card(weights)) == pytest.approx(expected, abs=2e-3)


def test_all_classes_together_are_certain_and_what_cannot_be_opened_is_nan(weights: Path) -> None:
    found = shares([jpeg(1), "listed, but not there", b"no picture", jpeg(2)], card(weights), list(range(1000)))
    assert found[[0, 3]] == pytest.approx(1.0)
    assert np.isnan(found[[1, 2]]).all()


def test_a_killed_run_goes_on_and_another_threshold_classifies_nothing_again(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classify, "PER_PART", 4)
    pictures: list[bytes | str] = [jpeg(n) for n in range(10)]
    whole = shares(list(pictures), card(weights), raw="other")

    def breaking(files: Sequence[str]) -> Iterator[bytes | str]:
        for name in files:
            if name == "6.jpg":
                raise KeyboardInterrupt
            yield pictures[int(name[0])]

    with pytest.raises(KeyboardInterrupt):
        sum_class_shares(
            lambda: nullcontext(breaking),
            [f"{n}.jpg" for n in range(10)],
            card(weights),
            VEHICLES,
            ENGINE,
            raw="raw",
            max_megapixels=100,
        )
    seen: list[int] = []
    once = Classifier.shares

    def counted(self: Classifier, batch: torch.Tensor, classes: Any) -> np.ndarray:
        seen.append(len(batch))
        return once(self, batch, classes)

    monkeypatch.setattr(Classifier, "shares", counted)
    assert shares(list(pictures), card(weights)).tolist() == whole.tolist()
    assert sum(seen) == 6  # the first part of four was kept
    assert shares(list(pictures), card(weights)).tolist() == whole.tolist()
    assert sum(seen) == 6
    shares(list(pictures), card(weights), raw="the files were exchanged")
    assert sum(seen) == 16


def test_no_picture_needs_no_model(weights: Path) -> None:
    assert shares([], card(weights)).tolist() == []


def test_a_model_that_does_not_know_imagenets_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ten.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), path)
    with pytest.raises(DataError, match="tells 10 classes apart; wanted ImageNet's 1,000"):
        classifiers.load(card(path, kwargs={"num_classes": 10}), path, CPU)
    with pytest.raises(DataError, match="does not hold the weights of timm's test_resnet"):
        classifiers.load(card(path), path, CPU)


def test_an_unknown_key_of_the_transform_is_refused(weights: Path) -> None:
    with pytest.raises(ParamsError, match="no such key: crop_percent; known: "):
        classifiers.load(card(weights, preprocess={"crop_percent": 0.9}), weights, CPU)


@pytest.mark.slow
def test_the_real_mobilenet_puts_vehicles_in_and_other_photos_out(shared_data: Path, tmp_path: Path) -> None:
    tower = TimmTower(
        timm="mobilenetv2_100",
        kwargs={"pad_type": "same"},
        preprocess={"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        checkpoint=str(shared_data / "weights" / "timm_mobilenetv2_100_tfsame.safetensors"),
    )
    made = ImageNet(ImageNetCard(adapter="imagenet", source=str(shared_data / "imagenet-1k")))
    made.download(tmp_path / "raw")
    images = made.annotations(tmp_path / "raw").images
    files = [image.file for image in images]
    reading = partial(open_pictures, made.card, tmp_path / "raw")
    found = sum_class_shares(reading, files, tower, VEHICLES, ENGINE, raw="", max_megapixels=100)
    names = set(read_classes("vehicles-49").values())
    kept = {image.image_id for image, share in zip(images, found, strict=True) if share > 0.6}
    figures = measure_agreement(kept, {image.image_id for image in images if names & set(image.labels)})
    assert figures["wanted"] == 49
    assert figures["precision"] >= 0.95
    assert figures["recall"] >= 0.9
