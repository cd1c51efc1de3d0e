from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import timm.data
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.tiny import CPU, photo
from twinlens.config.models import TimmTower
from twinlens.core.errors import DataError, ParamsError
from twinlens.images.decode import open_picture
from twinlens.images.transforms import fit_picture, to_tensor
from twinlens.models import encoders
from twinlens.models.encoders.base import ImageEncoder
from twinlens.models.encoders.timm import build, read_pixel_spec

SHAPES = [(200, 150), (120, 260), (180, 180), (90, 70)]


def save(name: str, folder: Path, **kwargs: Any) -> TimmTower:
    """Random weights of a timm model, classifier included, in a file; returns the card."""
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs).train()
    with torch.no_grad():
        model(torch.randn(8, 3, 160, 160))  # batch norms learn their statistics, which matter in eval mode
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.safetensors"
    save_file(model.state_dict(), path)
    return TimmTower(timm=name, kwargs=kwargs, checkpoint=str(path))


def load(card: TimmTower) -> ImageEncoder:
    image = encoders.load(card, encoders.locate(card), CPU).image
    assert image is not None
    return image


def theirs(card: TimmTower, pictures: list[Image.Image], **overrides: Any) -> torch.Tensor:
    """What timm itself makes of the pictures: its model without a classifier, its transform."""
    model = timm.create_model(card.timm, num_classes=0, **card.kwargs).eval()
    assert card.checkpoint is not None
    missing, _ = model.load_state_dict(load_file(card.checkpoint), strict=False)
    assert not missing
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model) | overrides)
    with torch.inference_mode():
        return model(torch.stack([transform(picture) for picture in pictures]))


def ours(image: ImageEncoder, pictures: list[Image.Image]) -> torch.Tensor:
    with torch.inference_mode():
        return image.encode(
            torch.stack([fit_picture(to_tensor(np.array(picture)), image.pixels) for picture in pictures])
        )


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """How far the vectors are from those wanted, as a share of how far these are from their mean."""
    return float((found - wanted).norm() / (wanted - wanted.mean(dim=0)).norm())


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a, b)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.fromarray(photo(seed, *shape)) for seed, shape in enumerate(SHAPES)]


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_resnet", "test_mambaout", "test_nfnet"])
def test_vectors_are_the_pooled_features_of_timms_own_model_and_transform(
    name: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    card = save(name, tmp_path)
    wanted, found = theirs(card, pictures), ours(load(card), pictures)
    assert found.shape == wanted.shape
    assert cosine(found, wanted).min() > 0.999
    assert apart(found, wanted) < 0.005


def test_vgg16_without_its_classifier_gives_the_last_hidden_layer_as_source_002_used_it() -> None:
    with torch.device("meta"):  # shapes without the 138 million numbers
        model, pixels = build(TimmTower(timm="vgg16.tv_in1k"), None, CPU.device)
        model.reset_classifier(0)
        assert model(torch.zeros(1, 3, pixels.height, pixels.width)).shape == (1, 4096)
        assert model.pre_logits.fc2.out_channels == 4096


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_the_model_is_in_eval_mode_so_a_batch_of_one_equals_a_batch_of_eight(
    name: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    image = load(save(name, tmp_path))
    eight = pictures * 2
    apart = torch.cat([ours(image, [picture]) for picture in eight])
    assert (ours(image, eight) - apart).abs().max() < 1e-5 * apart.abs().max()
    assert torch.equal(ours(image, eight), ours(image, eight))  # no dropout


def test_kwargs_reach_the_model(tmp_path: Path, pictures: list[Image.Image]) -> None:
    card = save("test_vit", tmp_path, global_pool="avg", class_token=False, num_classes=7)
    headless = {"global_pool": "avg", "class_token": False}
    wanted = theirs(card.model_copy(update={"kwargs": headless}), pictures)
    image = load(card)
    assert apart(ours(image, pictures), wanted) < 0.005
    model = timm.create_model("test_vit", num_classes=0, **headless)
    assert image.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "overrides",
    [
        {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        {"crop_pct": 0.6},
        {"crop_mode": "squash"},
        {"crop_mode": "squash", "crop_pct": 0.8},
        {"interpolation": "bilinear"},
        {"crop_pct": 0.9, "crop_mode": "center"},
    ],
)
def test_the_card_overrides_parts_of_the_transform(
    overrides: dict[str, Any], tmp_path: Path, pictures: list[Image.Image]
) -> None:
    card = save("test_vit", tmp_path).model_copy(update={"preprocess": overrides})
    found = ours(load(card), pictures)
    near = apart(found, theirs(card, pictures, **overrides))
    assert near < 0.005
    assert apart(found, theirs(card, pictures)) > 2 * near  # the override matters, little as it may be


def config(**overrides: Any) -> dict[str, Any]:
    common = {"input_size": (3, 160, 160), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}
    return common | {"crop_pct": 1.0, "crop_mode": "center"} | overrides


@pytest.mark.parametrize(
    ("side", "crop_pct", "scaled"),
    [(224, 0.875, 256), (288, 0.9, 320), (384, 0.95, 404), (224, 0.9, 248), (160, 1.0, 160)],
)
def test_a_picture_is_scaled_to_the_side_that_timm_computes(side: int, crop_pct: float, scaled: int) -> None:
    overrides = config(input_size=(3, side, side), crop_pct=crop_pct)
    resize = timm.data.create_transform(**overrides).transforms[0]
    assert resize.size == scaled
    assert read_pixel_spec(overrides).resize_px == scaled


def test_a_picture_may_be_squashed_to_another_shape_than_a_square() -> None:
    overrides = config(input_size=(3, 96, 64), crop_mode="squash", crop_pct=0.8)
    picture = photo(3, 150, 150)
    wanted = timm.data.create_transform(**overrides)(Image.fromarray(picture))
    apart = (wanted * 0.5 + 0.5) * 255 - fit_picture(to_tensor(picture), read_pixel_spec(overrides))
    assert apart.abs().max() < 2.01


@pytest.mark.parametrize("overrides", [{"crop_mode": "border"}, {"input_size": (3, 96, 64)}])
def test_a_transform_that_is_not_known_here_is_refused_by_name(overrides: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match=r"'border' is not known here; center and squash are|64 x 96 px needs"):
        read_pixel_spec(config(**overrides))


def test_an_unknown_key_of_the_transform_is_refused(tmp_path: Path) -> None:
    card = save("test_vit", tmp_path).model_copy(update={"preprocess": {"crop_percent": 0.9}})
    with pytest.raises(ParamsError, match=r"no such key: crop_percent; known: .*crop_pct"):
        load(card)


# ---------------------------------------------------------------- names and files


def test_an_unknown_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(ParamsError, match=r"timm has no 'mobilenet_v2_100' .did you mean 'mobilenetv2_100'"):
        encoders.locate(TimmTower(timm="mobilenet_v2_100.ra_in1k"))


def test_unknown_weights_of_a_known_model_are_refused_with_the_nearest() -> None:
    with pytest.raises(
        ParamsError, match=r"no weights 'mobilenetv2_100.ra_in2k' .did you mean 'mobilenetv2_100.ra_in1k'"
    ):
        encoders.locate(TimmTower(timm="mobilenetv2_100.ra_in2k"))


def test_a_model_without_a_tag_needs_a_checkpoint() -> None:
    with pytest.raises(ParamsError, match=r"names no weights: write architecture.tag, or give a `checkpoint`"):
        encoders.locate(TimmTower(timm="mobilenetv2_100"))


def test_kwargs_that_the_model_does_not_take_are_refused(tmp_path: Path) -> None:
    card = save("test_vit", tmp_path).model_copy(update={"kwargs": {"pad_typ": "same"}})
    with pytest.raises(ParamsError, match=r"cannot build 'test_vit' with kwargs .*pad_typ"):
        load(card)


@pytest.mark.parametrize("how", ["of another model", "incomplete", "cut short", "something else"])
def test_weights_that_do_not_fit_are_refused(how: str, tmp_path: Path) -> None:
    card = save("test_vit", tmp_path)
    path = Path(str(card.checkpoint))
    if how == "of another model":
        save("test_vit2", tmp_path)
    elif how == "incomplete":
        save_file({name: value for name, value in load_file(path).items() if "blocks.0" not in name}, path)
    else:
        path.write_bytes(path.read_bytes()[:5000] if how == "cut short" else b"a web page about weights")
    with pytest.raises(DataError, match="does not hold the weights of timm's test_vit"):
        load(card)


def test_random_weights_need_no_file(tmp_path: Path) -> None:
    image = encoders.load(TimmTower(timm="test_vit"), tmp_path / "nothing", CPU, random_weights=True).image
    assert image is not None
    assert ours(image, [Image.fromarray(photo(0))]).shape == (1, 64)


# ---------------------------------------------------------------- a real one


class Real(NamedTuple):
    features: torch.Tensor  # by our path
    reference: torch.Tensor  # by timm's own
    labels: torch.Tensor
    classifier: tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Real:
    """120 ImageNet photos through a MobileNetV2 that was trained on ImageNet."""
    said = json.loads((shared_data / "weights" / "mobilenetv2_100.json").read_text(encoding="utf-8"))
    path = shared_data / "weights" / "timm_mobilenetv2_100_tfsame.safetensors"
    transform = {key: said[key] for key in ("mean", "std", "interpolation", "crop_pct")}
    card = TimmTower(
        timm=said["model"], kwargs=said["kwargs"], preprocess=transform, checkpoint=str(path), sha256=said["sha256"]
    )
    image = load(card)
    reference = timm.create_model(said["model"], checkpoint_path=str(path), **said["kwargs"]).eval()
    reference.reset_classifier(0)
    timms = timm.data.create_transform(input_size=tuple(said["input_size"]), **transform)
    table = pq.read_table(next((shared_data / "imagenet-1k" / "data").glob("*.parquet")))
    found, wanted = [], []
    for row in table.to_pylist():
        pixels, _, _ = open_picture(row["image"]["bytes"])
        with torch.inference_mode():
            found.append(image.encode(fit_picture(to_tensor(pixels), image.pixels)[None]))
            wanted.append(reference(timms(Image.fromarray(pixels))[None]))
    weights = load_file(path)
    return Real(
        torch.cat(found),
        torch.cat(wanted),
        torch.tensor(table["label"].to_pylist()),
        (weights["classifier.weight"].float(), weights["classifier.bias"].float()),
    )


@pytest.mark.slow
def test_features_of_real_photos_are_those_of_timms_own_transform(real: Real) -> None:
    assert len(real.features) == 120
    assert cosine(real.features, real.reference).min() > 0.995


@pytest.mark.slow
def test_a_real_classifier_on_our_features_names_the_photos(real: Real) -> None:
    weight, bias = real.classifier
    named = (real.features @ weight.T + bias).argmax(dim=1)
    assert (named == real.labels).float().mean() > 0.8
