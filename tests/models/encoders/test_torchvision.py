"""Region features of Faster R-CNN against torchvision's own detectors, built and run as torchvision does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import detection, get_model_weights

from tests.tiny import CPU, jpegs, photos, write_shards
from tests.web import Host
from twinlens.config.models import ImageTower, ModelCard, TorchvisionTower
from twinlens.config.params import ComputeParams
from twinlens.core.costs import Cost
from twinlens.core.device import Placement
from twinlens.core.errors import DataError, FetchError, ParamsError
from twinlens.images.transforms import fit_picture, to_tensor
from twinlens.inference.tower import TowerJob
from twinlens.models import encoders
from twinlens.models.encoders.base import ImageEncoder

# The large one has a rule of its own (no epsilon in its published weights); all else is shown on the small one.
RESNET, MOBILE = NAMES = ["fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn"]
SIZE = 96
COMPUTE = ComputeParams(device="cpu", decode_threads=1, image_batch=3, text_batch=None)


def random_detector(name: str, classes: int = 91) -> Any:
    """A detector with random weights that tells regions apart, and is surer of some than of others."""
    torch.manual_seed(0)
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes).eval()
    model.transform.min_size, model.transform.max_size = (SIZE,), SIZE
    with torch.no_grad():
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.Conv2d) and module.bias is None:
                module.weight *= 0.1  # so small that the epsilon of the normalisation after it matters
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # its statistics are those of the one batch below
        model.backbone.train()(photos(4, SIZE) / 100 - 1)
        for layer, spread in ((model.rpn.head.cls_logits, 1.0), (model.roi_heads.box_predictor.cls_score, 4.0)):
            seen: list[torch.Tensor] = []
            hook = layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
            model.eval()([photos(1, SIZE)[0] / 255])
            hook.remove()
            outputs = seen[0].movedim(1, -1).flatten(0, -2)  # of all places, or of all regions
            layer.weight *= spread / outputs.std(dim=0).mean()
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of each detector, as torchvision publishes them."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {name: folder / f"{name}.pth" for name in NAMES}
    for name, path in paths.items():
        torch.save(random_detector(name).state_dict(), path)
    return paths


def card(path: Path, name: str = MOBILE, **fields: Any) -> TorchvisionTower:
    return TorchvisionTower.model_validate({"torchvision": name, "checkpoint": str(path), "size_px": SIZE} | fields)


def load(tower: TorchvisionTower) -> Any:
    image = encoders.load(tower, encoders.locate(tower), CPU).image
    assert image is not None
    return image


def encode(image: ImageEncoder, pictures: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return image.encode(pictures)


def theirs(model: Any, picture: torch.Tensor, regions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a detector of torchvision computes for its best detections, by its own forward pass.

    Returns:
        Features of the box head for the proposals behind the detections, best first, each once; all of its features.
    """
    seen: dict[str, Any] = {}
    heads = model.roi_heads
    hooks = [
        heads.box_head.register_forward_hook(lambda _, __, out: seen.update(features=out)),
        heads.box_predictor.register_forward_hook(lambda _, __, out: seen.update(scores=out[0].softmax(dim=-1))),
    ]
    with torch.inference_mode():
        (found,) = model([picture / 255])
    for hook in hooks:
        hook.remove()
    rows = [
        int((seen["scores"][:, label] == score).nonzero()[0])
        for label, score in zip(found["labels"], found["scores"], strict=True)
    ]
    return seen["features"][list(dict.fromkeys(rows))[:regions]], seen["features"]


def published(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The detector as torchvision's own builder makes it from published weights."""
    weights = get_model_weights(name)
    monkeypatch.setattr(weights, "get_state_dict", lambda *_, **__: torch.load(path))
    model = getattr(detection, name)(weights="COCO_V1").eval()
    model.transform.min_size, model.transform.max_size = (SIZE,), SIZE
    return model


@pytest.mark.parametrize(("name", "pooling"), [(RESNET, "mean"), (MOBILE, "mean"), (MOBILE, "max")])
def test_vectors_are_pooled_features_of_torchvisions_own_detections(
    name: str, pooling: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = photos(2, SIZE)
    model = published(name, files[name], monkeypatch)
    found = encode(load(card(files[name], name, weights="COCO_V1", regions=3, pooling=pooling)), pictures)
    assert found.shape == (2, 1024)
    for row, picture in zip(found, pictures, strict=True):
        best, every = theirs(model, picture, regions=3)
        assert 2 <= len(best) <= 3 < len(every)
        wanted, others = ((r.mean(dim=0) if pooling == "mean" else r.amax(dim=0)) for r in (best, every))
        assert (row - wanted).norm() < 1e-3 * wanted.norm()
        assert (row - others).norm() > 0.05 * wanted.norm()  # which regions are taken matters


def test_more_regions_than_detections_are_all_of_them(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (picture,) = photos(1, SIZE)
    best, _ = theirs(published(MOBILE, files[MOBILE], monkeypatch), picture, regions=10_000)
    found = encode(load(card(files[MOBILE], weights="COCO_V1", regions=10_000)), picture[None])
    assert (found[0] - best.mean(dim=0)).abs().max() < 1e-3 * float(best.abs().max())


def test_a_picture_without_a_detection_has_its_best_proposals_and_without_proposals_is_one_region(
    files: dict[str, Path],
) -> None:
    image, pictures = load(card(files[MOBILE], regions=2)), photos(1, SIZE)
    heads = image.model.roi_heads
    seen: dict[str, Any] = {}
    heads.box_head.register_forward_hook(lambda _, __, out: seen.update(features=out))
    heads.box_predictor.register_forward_hook(lambda _, __, out: seen.update(scores=out[0].softmax(dim=-1)))
    heads.score_thresh = 2.0
    found = encode(image, pictures)
    best = seen["scores"][:, 1:].amax(dim=1).topk(2).indices
    assert torch.allclose(found[0], seen["features"][best].mean(dim=0))
    image.model.rpn.score_thresh = 2.0
    alone = encode(image, pictures)
    assert len(seen["features"]) == 1
    assert torch.equal(alone[0], seen["features"][0])
    assert not torch.equal(alone, found)


def test_a_vector_does_not_depend_on_what_shares_its_batch_to_the_last_digit(files: dict[str, Path]) -> None:
    image, pictures = load(card(files[MOBILE])), photos(4, SIZE)
    together = encode(image, pictures)
    assert torch.equal(together, torch.cat([encode(image, picture[None]) for picture in pictures]))
    assert torch.equal(together, encode(image, pictures.flip(0)).flip(0))
    assert len({tuple(row.tolist()) for row in together}) == 4


def test_a_picture_is_fitted_into_a_grey_square_whole(files: dict[str, Path]) -> None:
    image = load(card(files[MOBILE], size_px=128))
    fitted = fit_picture(to_tensor(np.full((50, 100, 3), 200, dtype=np.uint8)), image.pixels)
    assert fitted.shape == (3, 128, 128)
    assert (fitted[:, 32:96] == 200).all()
    assert (fitted[:, :32] == 114).all() and (fitted[:, 96:] == 114).all()


def test_detectors_of_ones_own_from_torchvisions_training_script_or_safetensors(tmp_path: Path) -> None:
    model = random_detector(MOBILE, classes=4)
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "model_3.pth")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    pictures = photos(2, SIZE)
    wanted = encode(load(card(tmp_path / "model_3.pth")), pictures)
    assert torch.equal(encode(load(card(tmp_path / "model.safetensors")), pictures), wanted)
    image = load(card(tmp_path / "model.safetensors"))
    assert image.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_half_precision_is_not_used(files: dict[str, Path]) -> None:
    tower = card(files[MOBILE])
    half = encoders.load(tower, files[MOBILE], Placement(torch.device("cpu"), torch.bfloat16)).image
    assert half is not None
    assert torch.equal(encode(half, photos(1, SIZE)), encode(load(tower), photos(1, SIZE)))


def test_pictures_are_embedded_to_unit_vectors_by_the_loops(files: dict[str, Path], tmp_path: Path) -> None:
    pool = write_shards(jpegs(4), tmp_path / "shards")
    tower = card(files[MOBILE], size_px=64)
    job = TowerJob(tower, encoders.locate(tower), CPU, COMPUTE, Cost())
    (tmp_path / "out").mkdir()
    job.pictures("image", tmp_path / "shards", pool, tmp_path / "out")
    vectors = np.load(tmp_path / "out" / "image.npy")
    assert vectors.shape == (4, 1024)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert pl.read_parquet(tmp_path / "out" / "image.parquet")["id"].to_list() == pool["image_id"].to_list()
    fewer = TowerJob(card(files[MOBILE], size_px=64, regions=1), files[MOBILE], CPU, COMPUTE, Cost())
    assert fewer.identity != job.identity


# ---------------------------------------------------------------- weights


def of_another_detector(path: Path) -> None:
    state = torch.load(path)
    torch.save({name: value for name, value in state.items() if "fpn" not in name}, path)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:100_000]), "failed finding central directory"),
    "text": (lambda path: path.write_text("not weights"), f"does not hold the weights of {MOBILE}: "),
    "of another detector": (
        of_another_detector,
        f"does not hold the weights of {MOBILE}: it lacks 8 of its 330 tensors",
    ),
    "of a classifier": (lambda path: torch.save({"fc.weight": torch.ones(2)}, path), "it has no roi_heads"),
    "a tensor": (lambda path: torch.save(torch.ones(2), path), "found Tensor; wanted tensors by name"),
}


@pytest.mark.parametrize("how", BAD)
def test_weights_that_do_not_fit_are_refused(how: str, files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(files[MOBILE].read_bytes())
    spoil, message = BAD[how]
    spoil(path)
    with pytest.raises(DataError, match=message) as caught:
        load(card(path))
    assert str(path) in str(caught.value)


def test_weights_of_another_architecture_are_refused(files: dict[str, Path]) -> None:
    with pytest.raises(
        DataError, match="does not hold the weights of fasterrcnn_resnet50_fpn: it lacks 326 of its 348"
    ):
        load(card(files[MOBILE], RESNET))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"torchvision": MOBILE}, "name a source"),
        ({"torchvision": MOBILE, "weights": "COCO_V1", "revision": "0" * 40}, "have no `revision`"),
        ({"torchvision": "resnet50", "weights": "IMAGENET1K_V1"}, "Input should be 'fasterrcnn_resnet50_fpn'"),
        ({"torchvision": MOBILE, "weights": "COCO_V1", "size_px": 100}, "multiple of 32"),
        ({"torchvision": MOBILE, "timm": "resnet50"}, "a tower is named by one key"),
    ],
)
def test_a_card_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelCard.model_validate({"image": fields})


def test_weights_that_torchvision_does_not_have_are_named_beside_those_it_has() -> None:
    with pytest.raises(ParamsError, match=r"has no weights 'COCO_V2' \(did you mean 'COCO_V1'"):
        encoders.locate(TorchvisionTower(torchvision="fasterrcnn_resnet50_fpn", weights="COCO_V2"))


def serve(content: bytes, digest: str, host: Host, monkeypatch: pytest.MonkeyPatch) -> TorchvisionTower:
    """Published weights, in a file whose name ends in the first digits of a digest."""
    name = f"detector-{digest[:8]}.pth"
    host.files[name] = content
    weights: Any = get_model_weights(MOBILE)
    monkeypatch.setattr(weights.COCO_V1.value, "url", f"{host.url}/{name}")
    return TorchvisionTower(torchvision="fasterrcnn_mobilenet_v3_large_fpn", weights="COCO_V1", size_px=SIZE)


def test_weights_are_fetched_once_and_are_those_of_the_file(
    files: dict[str, Path], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = files[MOBILE].read_bytes()
    tower = serve(content, hashlib.sha256(content).hexdigest(), host, monkeypatch)
    local = card(files[MOBILE], weights="COCO_V1")
    assert torch.equal(encode(load(tower), photos(1, SIZE)), encode(load(local), photos(1, SIZE)))
    encoders.locate(tower)
    assert len(host.requests) == 1


def test_a_file_of_another_digest_than_its_name_says_is_refused_and_what_to_do_is_said(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = serve(b"another file", "0" * 64, host, monkeypatch)
    with pytest.raises(FetchError, match="expected 00000000: it is another file") as caught:
        encoders.locate(tower)
    assert "name the file as `checkpoint` on the card" in str(caught.value)


def test_offline_the_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINLENS_OFFLINE", "1")
    tower: ImageTower = TorchvisionTower(torchvision="fasterrcnn_resnet50_fpn", weights="COCO_V1")
    with pytest.raises(FetchError, match=r"fasterrcnn_resnet50_fpn_coco-258fb6c6\.pth is not here"):
        encoders.locate(tower)
