"""The text tower in numpy: the vectors that open_clip makes, and the towers that are left to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.indexing.conftest import DATASET, MODEL
from tests.tiny import spread
from twinlens import Searcher
from twinlens.config.load import read_params
from twinlens.core import paths
from twinlens.core.device import choose_device
from twinlens.indexing import clip_text
from twinlens.indexing.clip_text import CONFIG, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from twinlens.indexing.query_encoder import QueryEncoder
from twinlens.models import encoders
from twinlens.models.encoders.base import TextEncoder

TEXTS = [
    "a red car in the snow",
    "<end> a <pad> car",  # special tokens, spelled out
    "car " * 100,  # more than the tower reads
    "שלום 🐕 a RED bus",
    "a &amp;amp; b",
    "a \ufb01sh, \uff41 c\uff41r\u2019s \u201ctree\u201d",  # what ftfy mends
    "a",
]


@pytest.fixture
def weights(copy: Path) -> Path:
    """A trained folder, to be changed."""
    return copy / paths.trained(DATASET, MODEL) / "weights"


def by_open_clip(folder: Path) -> TextEncoder:
    loaded = encoders.load(read_params().models[MODEL].towers()["joint"], folder, choose_device("cpu"))
    assert loaded.text is not None
    return loaded.text


@pytest.mark.parametrize("text", TEXTS)
def test_vectors_and_token_counts_are_those_of_open_clip(weights: Path, text: str) -> None:
    light, full = clip_text.load(weights), by_open_clip(weights)
    assert light is not None
    with torch.inference_mode():
        wanted = full.encode([text]).numpy()
    assert light.encode(text) == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    assert np.abs(wanted).max() > 0.1
    assert (light.token_count(text), light.max_tokens) == (full.token_counts([text])[0], full.max_tokens)


def change(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text()) | values
    file.unlink()
    file.write_text(json.dumps(content))


def with_text_cfg(folder: Path, **values: Any) -> None:
    model = json.loads((folder / CONFIG).read_text())["model_cfg"]
    change(folder / CONFIG, model_cfg=model | {"text_cfg": model["text_cfg"] | values})


@pytest.mark.parametrize(
    "what", ["pooling", "layers", "dtype", "quick_gelu", "tokenizer", "no tokenizer", "no weights"]
)
def test_a_tower_of_another_kind_is_left_to_open_clip(weights: Path, what: str) -> None:
    assert clip_text.load(weights) is not None
    match what:
        case "pooling":
            with_text_cfg(weights, pool_type="eos")
        case "layers":
            with_text_cfg(weights, layers=3)
        case "dtype":
            tensors = load_file(weights / WEIGHTS)
            (weights / WEIGHTS).unlink()
            save_file({name: value.astype(np.float16) for name, value in tensors.items()}, weights / WEIGHTS)
        case "quick_gelu":
            model = json.loads((weights / CONFIG).read_text())["model_cfg"]
            change(weights / CONFIG, model_cfg=model | {"quick_gelu": True})
        case "tokenizer":
            change(weights / TOKENIZER_CONFIG, tokenizer_class="CLIPTokenizer")
        case "no tokenizer":
            (weights / TOKENIZER).unlink()
        case _:
            (weights / WEIGHTS).unlink()
    assert clip_text.load(weights) is None


@pytest.mark.usefixtures("root")
def test_a_search_gives_the_same_answer_with_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    light = Searcher()
    found = light.search("a red car in the snow", k=20).hits
    assert light.towers._loaded == {}
    monkeypatch.setattr(QueryEncoder, "_light", None)
    full = Searcher()
    wanted = full.search("a red car in the snow", k=20).hits
    assert set(full.towers._loaded) == {"joint"}
    assert [hit.image_id for hit in found] == [hit.image_id for hit in wanted]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in wanted], abs=1e-6)


@pytest.mark.usefixtures("root")
def test_a_device_that_was_asked_for_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    params = read_params()
    elsewhere = params.model_copy(update={"compute": params.compute.model_copy(update={"device": "cpu:0"})})
    searcher = Searcher(params=elsewhere)
    assert searcher.search("a car").hits
    assert set(searcher.towers._loaded) == {"joint"}


def test_random_weights_of_a_new_tower_agree_too(copy: Path) -> None:
    """Biases, and the weights of norms, that training has hardly moved are moved here."""
    from open_clip.model import CLIP
    from safetensors.torch import save_file as save_torch

    folder = copy / paths.trained(DATASET, MODEL) / "weights"
    config = json.loads((folder / CONFIG).read_text())["model_cfg"]
    model = spread(CLIP(**config))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.sin(torch.arange(len(parameter)) + number))
    (folder / WEIGHTS).unlink()
    save_torch({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    light, full = clip_text.load(folder), by_open_clip(folder)
    assert light is not None
    with torch.inference_mode():
        assert light.encode(TEXTS[0]) == pytest.approx(full.encode([TEXTS[0]]).numpy(), rel=1e-5, abs=1e-5)
