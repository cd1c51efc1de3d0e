from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaModel, ModernBertConfig, ModernBertModel

from tests.tiny import sizes
from twinlens.core.device import Placement
from twinlens.models.encoders.base import place

HALF = Placement(torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (LlamaModel, LlamaConfig(vocab_size=40, **sizes())),
        (ModernBertModel, ModernBertConfig(vocab_size=40, pad_token_id=0, **sizes())),
    ],
)
def test_rotary_frequencies_stay_float32(kind: Any, config: Any) -> None:
    model = kind(config)
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "inv_freq" in name}
    placed = place(model, HALF)
    assert placed is model
    assert not model.training
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    after = dict(model.named_buffers())
    assert before
    for name, buffer in before.items():
        assert after[name].dtype == torch.float32
        assert torch.equal(after[name], buffer)
    with torch.inference_mode():
        assert model(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state.dtype == torch.bfloat16


def test_all_else_takes_the_dtype() -> None:
    model = place(torch.nn.BatchNorm2d(3), HALF)
    assert {buffer.dtype for name, buffer in model.named_buffers() if name.startswith("running")} == {torch.bfloat16}
