"""Blocks are folded for those who embed: the same vectors, from fewer parameters; training has the branches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch

from tests.models.encoders import test_open_clip, test_timm
from tests.tiny import CPU, photos
from twinlens.config.models import OpenClipTower, Tower
from twinlens.config.params import ComputeParams
from twinlens.core.costs import Cost
from twinlens.inference.tower import TowerJob
from twinlens.models import encoders
from twinlens.models.encoders.open_clip import wrap
from twinlens.models.folding import fold_blocks

COMPUTE = ComputeParams(device="cpu", decode_threads=1, image_batch=None, text_batch=None)
SMALL: dict[str, Any] = {"layers": [1, 1, 1, 1], "embed_dims": [16, 32, 64, 128]}


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def job(tower: Tower) -> TowerJob:
    return TowerJob(tower, encoders.locate(tower), CPU, COMPUTE, Cost())


def test_who_embeds_has_the_blocks_folded_with_the_same_vectors_and_who_trains_has_them_as_they_were(
    tmp_path: Path,
) -> None:
    tower = test_timm.save("fastvit_t8", tmp_path, **SMALL)
    trained: Any = encoders.load(tower, encoders.locate(tower), CPU)
    embedding = job(tower).loaded
    assert embedding.folded and not trained.folded
    folded: Any = embedding.image
    assert count(folded.model) < 0.97 * count(trained.image.model)
    assert folded.parameters == trained.image.parameters  # a tower's size is that which its card tells
    pictures = photos(4, 256)
    with torch.inference_mode():
        found, wanted = (torch.nn.functional.normalize(one.encode(pictures)) for one in (folded, trained.image))
    assert (found - wanted).abs().max() < 1e-6
    assert torch.linalg.matrix_rank(wanted - wanted.mean(dim=0), atol=1e-4) == 3


def test_mobileclip_has_the_same_vectors_folded() -> None:
    """The architecture of S0, with random weights whose norms have statistics of their own."""
    torch.manual_seed(0)
    model = open_clip.create_model("MobileCLIP2-S0", pretrained_text=False)
    draw = torch.Generator().manual_seed(0)
    for module in model.visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.05, generator=draw)
            module.running_var.uniform_(0.5, 1.5, generator=draw)
    loaded: Any = wrap(model, open_clip.get_tokenizer("MobileCLIP2-S0"), CPU)
    pictures = photos(2, 256)
    with torch.inference_mode():
        before = torch.nn.functional.normalize(loaded.image.encode(pictures))
        modules = len(list(model.visual.modules()))
        assert fold_blocks(loaded).folded
        after = torch.nn.functional.normalize(loaded.image.encode(pictures))
    assert len(list(model.visual.modules())) < modules
    assert (after - before).abs().max() < 1e-6
    assert (before[0] - before[1]).abs().max() > 1e-4  # they do say something


def test_a_folded_model_keeps_its_precision(tmp_path: Path) -> None:
    tower = test_timm.save("fastvit_t8", tmp_path, **SMALL)
    loaded: Any = encoders.load(tower, encoders.locate(tower), CPU)
    loaded.image.model.to(torch.bfloat16)
    folded: Any = fold_blocks(loaded)
    assert folded.folded
    assert {parameter.dtype for parameter in folded.image.model.parameters()} == {torch.bfloat16}


def test_a_model_without_such_blocks_is_left_alone(tmp_path: Path) -> None:
    test_open_clip.write_folder(tmp_path)
    tower: OpenClipTower = test_open_clip.custom(tmp_path)
    loaded = encoders.load(tower, encoders.locate(tower), CPU)
    assert fold_blocks(loaded) is loaded
