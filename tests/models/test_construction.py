"""Models built without random numbers: every parameter and buffer as by the library's plain way, and none drawn."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import detection

from tests.tiny import CPU, spread
from twinlens.config.models import ModelCard, OpenClipTower, TimmTower
from twinlens.models import encoders
from twinlens.models.construction import fill_parameters, leave_parameters_empty

TEXT = {"context_length": 12, "vocab_size": 60, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT},
    "vit with sines and no class token": {
        "embed_dim": 16,
        "vision_cfg": VIT | {"pos_embed_type": "sin_cos_2d", "pool_type": "avg", "no_ln_pre": True},
        "text_cfg": TEXT,
    },
    "resnet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
        "text_cfg": TEXT,
    },
    "convnext": {
        "embed_dim": 16,
        "vision_cfg": {
            "timm_model_name": "convnext_atto",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "timm_drop_path": 0.1,
            "image_size": 32,
        },
        "text_cfg": TEXT,
    },
    "siglip": {
        "embed_dim": 192,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "none",
            "image_size": 32,
        },
        "text_cfg": TEXT
        | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "proj_type": "linear", "width": 192},
    },
    "custom text": {"embed_dim": 16, "custom_text": True, "vision_cfg": VIT, "text_cfg": TEXT},
}


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer, those too that stand in no file."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many numbers were drawn at random, each time that memory was filled with them."""
    drawn: list[int] = []
    for name in ("normal_", "uniform_"):
        plain = getattr(torch.Tensor, name)

        def count(tensor: torch.Tensor, *args: Any, plain: Callable[..., Any] = plain, **options: Any) -> Any:
            if not tensor.is_meta:
                drawn.append(tensor.numel())
            return plain(tensor, *args, **options)

        monkeypatch.setattr(torch.Tensor, name, count)
    return drawn


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    config = copy.deepcopy(ARCHITECTURES[request.param])
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    return "tiny"


def test_an_open_clip_model_is_as_by_the_plain_way_and_nothing_is_drawn(
    architecture: str, tmp_path: Path, draws: list[int]
) -> None:
    file = tmp_path / "tiny.safetensors"
    torch.manual_seed(0)
    source = spread(open_clip.create_model(architecture, pretrained_text=False))
    save_file({name: value.contiguous() for name, value in source.state_dict().items()}, file)
    plain = open_clip.create_model(architecture, pretrained_text=False)
    open_clip.load_checkpoint(plain, str(file))
    assert draws  # by the plain way; so that the next count says something
    draws.clear()
    loaded = encoders.load(OpenClipTower(open_clip=architecture, checkpoint=str(file)), file, CPU)
    ours = tensors(loaded.image.model)  # type: ignore[union-attr]
    assert not draws
    wanted = tensors(plain)
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)
    assert all(ours[name].dtype == wanted[name].dtype and not ours[name].is_meta for name in wanted)
    assert all(ours[name].requires_grad == wanted[name].requires_grad for name in wanted)


def test_a_text_tower_of_transformers_is_as_by_the_plain_way(tmp_path: Path, draws: list[int]) -> None:
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    source = RobertaModel(config)
    with leave_parameters_empty():
        empty = RobertaModel(config)
    fill_parameters(empty, CPU.device)
    drawn = len(draws)
    empty.load_state_dict(source.state_dict())
    assert len(draws) == drawn
    ours, wanted = tensors(empty), tensors(source)
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)


def test_a_timm_model_is_as_by_the_plain_way_and_nothing_is_drawn(tmp_path: Path, draws: list[int]) -> None:
    file, name = tmp_path / "tiny.safetensors", "test_vit"
    save_file(timm.create_model(name).state_dict(), file)
    plain = timm.create_model(name)
    timm.models.load_checkpoint(plain, str(file))
    draws.clear()
    card = TimmTower(timm=name, checkpoint=str(file))
    from twinlens.models.encoders.timm import build

    model, _ = build(card, file, CPU.device)
    assert not draws
    ours, wanted = tensors(model), tensors(plain)
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[key], wanted[key]) for key in wanted)


def test_a_detector_is_as_by_the_plain_way_and_nothing_is_drawn(tmp_path: Path, draws: list[int]) -> None:
    kind = "fasterrcnn_mobilenet_v3_large_fpn"
    torch.manual_seed(0)
    plain = getattr(detection, kind)(weights=None, weights_backbone=None)
    file = tmp_path / "detector.pth"
    torch.save(plain.state_dict(), file)
    draws.clear()
    tower = ModelCard.model_validate({"image": {"torchvision": kind, "checkpoint": str(file), "size_px": 64}}).image
    assert tower is not None
    loaded = encoders.load(tower, file, CPU)
    assert not draws
    ours, wanted = tensors(loaded.image.model), tensors(plain)  # type: ignore[union-attr]
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)


def test_a_parameter_that_two_modules_share_stays_one() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.write = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False)
            self.write.weight = self.read.weight

    with leave_parameters_empty():
        model = Tied()
    fill_parameters(model, CPU.device)
    assert model.read.weight is model.write.weight
    assert not model.read.weight.is_meta


def test_other_threads_build_as_ever_and_afterwards_all_do() -> None:
    built: list[torch.nn.Module] = []
    with leave_parameters_empty():
        thread = threading.Thread(target=lambda: built.append(torch.nn.Linear(2, 2).to(torch.float64)))
        thread.start()
        thread.join()
        assert torch.nn.Linear(2, 2).weight.is_meta
    assert not built[0].weight.is_meta and built[0].weight.dtype == torch.float64  # type: ignore[union-attr]
    assert not torch.nn.Linear(2, 2).weight.is_meta
