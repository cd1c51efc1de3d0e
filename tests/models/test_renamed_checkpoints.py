"""A checkpoint whose parts have other names is refused by every adapter, never passed over and filled with others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file

from tests.models import jina_published, test_classifiers
from tests.models.captioners import test_transformers as test_captioners
from tests.models.encoders import (
    test_jina_clip,
    test_open_clip,
    test_sentence_transformers,
    test_timm,
    test_transformers,
)
from tests.tiny import CPU, spread
from twinlens.config.models import OpenClipTower, TorchvisionTower
from twinlens.config.training import HeadsArchitecture
from twinlens.core.errors import DataError
from twinlens.models import classifiers, encoders
from twinlens.models.heads import WEIGHTS, ProjectionHeads

Made = tuple[Path, Callable[[], object]]  # the file of weights, and what loads it


def open_clip_folder(folder: Path) -> Made:
    test_open_clip.write_folder(folder)
    return folder / "open_clip_model.safetensors", lambda: test_open_clip.loaded(folder)


def timm(folder: Path) -> Made:
    card = test_timm.save("test_resnet", folder)
    return Path(str(card.checkpoint)), lambda: test_timm.load(card)


def clip(folder: Path) -> Made:
    test_transformers.save_clip(folder)
    return folder / "model.safetensors", lambda: test_transformers.load(test_transformers.card(folder))


def siglip(folder: Path) -> Made:
    test_transformers.save_siglip(folder)
    return folder / "model.safetensors", lambda: test_transformers.load(test_transformers.card(folder))


def bert(folder: Path) -> Made:
    test_transformers.save_bert(folder)
    card = test_transformers.card(folder, pooling="mean")
    return folder / "model.safetensors", lambda: test_transformers.load(card)


def sentence_transformers(folder: Path) -> Made:
    saved = test_sentence_transformers.save(folder)
    card = test_sentence_transformers.card(saved)
    return saved / "model.safetensors", lambda: test_sentence_transformers.load(card)


def jina_clip(folder: Path) -> Made:
    jina_published.save(folder)
    return folder / "model.safetensors", lambda: test_jina_clip.load(test_jina_clip.card(folder))


def torchvision(folder: Path) -> Made:
    from torchvision.models import detection

    model = detection.fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None, num_classes=3)
    save_file(model.state_dict(), folder / "detector.safetensors")
    path = folder / "detector.safetensors"
    card = TorchvisionTower(torchvision="fasterrcnn_mobilenet_v3_large_fpn", checkpoint=str(path), size_px=64)
    return path, lambda: encoders.load(card, path, CPU)


def captioner(folder: Path) -> Made:
    test_captioners.save("blip", folder)
    return folder / "model.safetensors", lambda: test_captioners.load("blip", folder)


def classifier(folder: Path) -> Made:
    saved = test_classifiers.save(folder / "vit", test_classifiers.NAMES)
    return saved / "model.safetensors", lambda: classifiers.load(test_classifiers.card(saved), saved, CPU)


def heads(folder: Path) -> Made:
    ProjectionHeads(HeadsArchitecture(dim=4), 3, 5).write(folder)
    return folder / WEIGHTS, lambda: ProjectionHeads.read(folder)


ADAPTERS: list[Callable[[Path], Made]] = [
    *(open_clip_folder, timm, clip, siglip, bert, sentence_transformers, jina_clip, torchvision, captioner),
    *(classifier, heads),
]


NORMS = ("norm", "ln_", ".bn")


def rename(path: Path, wanted: Callable[[str, torch.Tensor], bool]) -> int:
    """Give other names to some parts of a file; returns how many."""
    state = load_file(path)
    other = {f"other.{name}x" if wanted(name, value) else name: value for name, value in state.items()}
    save_file(other, path, metadata={"format": "pt"})
    return len(other.keys() - state.keys())


@pytest.mark.parametrize("make", ADAPTERS)
def test_a_checkpoint_with_other_names_is_refused(make: Callable[[Path], Made], tmp_path: Path) -> None:
    path, load = make(tmp_path)
    load()
    assert rename(path, lambda *_: True)
    with pytest.raises(DataError, match=str(tmp_path)):
        load()


@pytest.mark.parametrize("make", ADAPTERS)
def test_a_checkpoint_whose_norms_alone_have_other_names_is_refused(
    make: Callable[[Path], Made], tmp_path: Path
) -> None:
    path, load = make(tmp_path)
    renamed = rename(
        path, lambda name, value: value.ndim == 1 and ("norm" in name.lower() or ".bn" in name or ".ln" in name)
    )
    if not renamed:
        pytest.skip("it has none")
    with pytest.raises(DataError, match=str(tmp_path)):
        load()


def test_a_bare_file_with_other_names_is_refused_by_open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", test_open_clip.architecture())
    card = OpenClipTower(open_clip="tiny-clip", checkpoint=str(tmp_path / "tiny.safetensors"))
    path = tmp_path / "tiny.safetensors"
    save_file(spread(CLIP(**test_open_clip.architecture())).state_dict(), path)
    encoders.load(card, path, CPU)
    rename(path, lambda name, _: name.startswith("transformer."))
    with pytest.raises(DataError, match="does not hold the weights of tiny-clip"):
        encoders.load(card, path, CPU)
