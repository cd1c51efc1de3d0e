"""Attention in training: by fewer operations, what the libraries' own modules give, gradients too."""

from __future__ import annotations

import copy
from functools import partial

import torch
from open_clip.modified_resnet import AttentionPool2d
from transformers import BlipConfig, BlipForConditionalGeneration

from twinlens.training.captioning import fuse_attention
from twinlens.training.dual_encoder import pool_by_attention

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def assert_same_gradients(one: torch.nn.Module, other: torch.nn.Module) -> None:
    """Of all parameters that have any, and some are not zero."""
    largest = 0.0
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        if mine.grad is not None and theirs.grad is not None:
            assert torch.allclose(mine.grad, theirs.grad, atol=1e-5), name
            largest = max(largest, float(mine.grad.abs().max()))
    assert largest > 1e-3


def test_a_picture_is_pooled_by_one_query_as_open_clip_pools_it_by_all() -> None:
    torch.manual_seed(0)
    theirs = AttentionPool2d(3, 32, 4, 8)
    mine = copy.deepcopy(theirs)
    mine.forward = partial(pool_by_attention, mine)
    x = torch.randn(5, 32, 3, 3)
    found, wanted = mine(x), theirs(x)
    assert found.shape == (5, 8)
    assert torch.allclose(found, wanted, atol=1e-5)
    found.square().sum().backward()
    wanted.square().sum().backward()
    assert_same_gradients(mine, theirs)


def test_a_blip_attends_by_the_fused_product_as_transformers_does_by_ten() -> None:
    torch.manual_seed(0)
    text = SIZES | {"encoder_hidden_size": 16, "max_position_embeddings": 12, "vocab_size": 20}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": 0}
    config = BlipConfig(text_config=text | still, vision_config=SIZES | {"image_size": 16, "patch_size": 8})
    theirs = BlipForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)  # else attention is nearly even
    mine = copy.deepcopy(theirs)
    fuse_attention(mine)
    pixels, tokens = torch.randn(3, 3, 16, 16), torch.randint(1, 20, (3, 7))
    tokens[1, 4:] = 0
    losses = []
    for model in (mine, theirs):
        seen = model.vision_model(pixel_values=pixels)[0]
        mask = (tokens != 0).long()
        logits = model.text_decoder(input_ids=tokens, attention_mask=mask, encoder_hidden_states=seen).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=0)
        loss.backward()
        losses.append(loss.detach())
    assert torch.allclose(losses[0], losses[1], atol=1e-6)
    assert_same_gradients(mine, theirs)


def test_attention_whose_weights_are_dropped_out_stays_as_it_is() -> None:
    text = SIZES | {"encoder_hidden_size": 16, "max_position_embeddings": 12, "vocab_size": 20}
    config = BlipConfig(text_config=text | {"attention_probs_dropout_prob": 0.1}, vision_config=SIZES)
    model = BlipForConditionalGeneration(config)
    fuse_attention(model)
    fused = {type(module).__name__ for module in model.modules() if "forward" in vars(module)}
    assert fused == {"BlipAttention"}
