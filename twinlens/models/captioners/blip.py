"""BLIP from pixels to tokens: the library's weights, computed in an order that keeps a device busy.

The words are those of `BlipForConditionalGeneration.generate`; what is other than there:

* Attention among patches is one fused operation (`scaled_dot_product_attention`); the library has only the product of
  all pairs, which it writes out.
* A decoder of pictures looks at all patches for every word, in every layer. The keys of a layer are a linear map of
  the vision tower's output, so `query · (K e) = (K' query) · e`: the query goes through the map instead of 577 patches,
  all layers read the same patches, and no layer's keys and values are ever computed or kept. (The bias of the keys adds
  the same to all patches, which softmax takes away again; that of the values is added once, as weights add up to 1.)
* Keys and values of the words before lie in a cache of fixed size, for the search of `search.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch.nn import functional

from twinlens.models.captioners.search import Run, SearchSettings, find_unsupported, make_search

log = logging.getLogger("twinlens")

ALIGNED = 8  # patches are padded to a multiple on GPUs, whose matrix units want rows of 16 bytes


class BlipGenerator:
    """A BLIP that captions batch after batch."""

    def __init__(self, model: Any, settings: SearchSettings) -> None:
        self.model, self.settings = model, settings
        self.decoder = BlipDecoder(model.text_decoder)
        self._runs: dict[int, _Batch] = {}
        self._expected: int | None = None

    def expect(self, images: int | None) -> None:
        """Prepare for many batches of `images`, whose steps a GPU records after the first; None: for none.

        Recording takes about a second, and is worth it from a few batches on.
        """
        self._expected = images

    @torch.no_grad()  # not `inference_mode`, whose tensors no graph may be recorded with
    def generate(self, pixels: Float[torch.Tensor, "images 3 height width"]) -> Int64[torch.Tensor, "images tokens"]:
        """Find the tokens of the captions, with their prompt, on the device; the next batch overwrites them.

        Raises:
            OutOfMemoryError: the device's memory does not suffice; nothing is kept that would fill it.
        """
        try:
            patches = encode_patches(self.model.vision_model, pixels)
            batch = self._get_batch(patches)
            batch.state.load(patches)
            del patches, pixels
            return batch.run()
        except torch.OutOfMemoryError:
            self.release()
            raise

    def release(self) -> None:
        """Give back what batches of one size share."""
        self._runs.clear()

    def _get_batch(self, patches: Float[torch.Tensor, "images patches dim"]) -> _Batch:
        images, device = len(patches), patches.device
        if (batch := self._runs.get(images)) is None:
            self._runs.clear()  # of the sizes before
            state = BlipState(self.decoder, patches, self.settings)
            search = make_search(self.decoder, self.settings, state, images, device)
            batch = self._runs[images] = _Batch(state, Run(search, self.settings, device))
        elif device.type == "cuda" and images == self._expected and not batch.is_recorded:
            batch.is_recorded = True  # the first batch has called every kernel once, as recording needs
            try:
                batch.run.record()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                log.warning("captions are made step by step, as the steps cannot be recorded: %s", error)
        return batch


@dataclass
class _Batch:
    state: BlipState
    run: Run
    is_recorded: bool = False


def read_blip_settings(model: Any, max_new_tokens: int, num_beams: int) -> SearchSettings | None:
    """Read how `generate` of a BLIP would search; None where it is asked for what the search here does not have."""
    generation, config = model.text_decoder.generation_config, model.config.text_config
    start, end, pad = config.bos_token_id, config.sep_token_id, config.pad_token_id
    unsupported = find_unsupported(generation.to_diff_dict())
    numbers = all(isinstance(number, int) for number in (start, end, pad))
    looks = all(hasattr(layer, "crossattention") for layer in model.text_decoder.bert.encoder.layer)
    fits = 1 + max_new_tokens <= config.max_position_embeddings
    if unsupported or not numbers or start == pad or not looks or not fits:
        return None
    return SearchSettings(
        (start,),
        end,
        pad,
        max_new_tokens,
        generation.min_new_tokens or 0,
        num_beams,
        1.0 if generation.length_penalty is None else generation.length_penalty,
        generation.early_stopping or False,
    )


# ---------------------------------------------------------------- vision tower


def encode_patches(
    vision: Any, pixels: Float[torch.Tensor, "images 3 height width"]
) -> Float[torch.Tensor, "images patches dim"]:
    """Compute the vision tower's vectors of all patches, the class token first (`BlipVisionModel.forward`)."""
    hidden = _embed_patches(vision.embeddings, pixels)
    for layer in vision.encoder.layers:
        hidden += _attend_to_patches(layer.self_attn, layer.layer_norm1(hidden))
        hidden += layer.mlp(layer.layer_norm2(hidden))
    return vision.post_layernorm(hidden)


def _embed_patches(
    embeddings: Any, pixels: Float[torch.Tensor, "images 3 height width"]
) -> Float[torch.Tensor, "images patches dim"]:
    convolution = embeddings.patch_embedding  # whose stride is its kernel, so a matrix product
    high, wide = convolution.kernel_size
    images, channels, height, width = pixels.shape
    patches = pixels.to(convolution.weight.dtype).reshape(images, channels, height // high, high, width // wide, wide)
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (images, patches, channels * high * wide)
    hidden = torch.empty(
        (images, patches.shape[1] + 1, convolution.out_channels), dtype=patches.dtype, device=patches.device
    )
    hidden[:, 1:] = functional.linear(patches, convolution.weight.flatten(1), convolution.bias)
    hidden[:, :1] = embeddings.class_embedding.to(hidden.dtype)
    hidden += embeddings.position_embedding[:, : hidden.shape[1]].to(hidden.dtype)
    return hidden


def _attend_to_patches(
    attention: Any, hidden: Float[torch.Tensor, "images patches dim"]
) -> Float[torch.Tensor, "images patches dim"]:
    heads = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, attention.head_dim))
    query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (images, heads, patches, dim of a head)
    found = functional.scaled_dot_product_attention(query, key, value, scale=attention.scale)
    return attention.projection(found.transpose(1, 2).flatten(2))


# ---------------------------------------------------------------- text decoder


class BlipState:
    """A batch's patches, and keys and values of the tokens so far; the tensors keep their place from batch to batch."""

    def __init__(
        self, decoder: BlipDecoder, patches: Float[torch.Tensor, "images patches dim"], settings: SearchSettings
    ) -> None:
        images, self.count, dim = patches.shape
        padded = -(-self.count // ALIGNED) * ALIGNED if patches.device.type == "cuda" else self.count
        self.patches = patches.new_zeros((images, padded, dim))
        cache = (images * settings.num_beams, decoder.heads, settings.length, decoder.head_dim)
        self.keys = [patches.new_empty(cache) for _ in decoder.layers]
        self.values = [patches.new_empty(cache) for _ in decoder.layers]

    def load(self, patches: Float[torch.Tensor, "images patches dim"]) -> None:
        """Take the patches of another batch."""
        self.patches[:, : self.count] = patches


class BlipDecoder:
    """BLIP's text decoder, one token of every caption at a time (`BlipTextLMHeadModel.forward` with a cache)."""

    def __init__(self, text: Any) -> None:
        self.embeddings, self.head = text.bert.embeddings, text.cls.predictions
        first = text.bert.encoder.layer[0].attention.self
        self.heads, self.head_dim = first.num_attention_heads, first.attention_head_size
        with torch.no_grad():
            self.layers = [_Layer(layer) for layer in text.bert.encoder.layer]

    def step(
        self, tokens: Int64[torch.Tensor, " rows"], position: int, state: BlipState, logits: bool
    ) -> Float[torch.Tensor, "rows words"] | None:
        """Take the tokens at `position`; returns the logits of what follows, if they are asked for."""
        embeddings = self.embeddings
        hidden = embeddings.word_embeddings(tokens) + embeddings.position_embeddings.weight[position]
        hidden = embeddings.LayerNorm(hidden)
        for layer, keys, values in zip(self.layers, state.keys, state.values, strict=True):
            hidden = layer.step(hidden, position, keys, values, state)
        return self.head.decoder(self.head.transform(hidden)) if logits else None

    def reorder(self, state: BlipState, rows: Int64[torch.Tensor, " rows"], length: int) -> None:
        """Let each row go on from what the row that it names has read in its first `length` positions."""
        for kept in (*state.keys, *state.values):
            kept[:, :, :length] = kept[:, :, :length].index_select(0, rows)


class _Layer:
    """One layer of the decoder, with its maps put together as `step` needs them."""

    def __init__(self, layer: Any) -> None:
        own, cross = layer.attention, layer.crossattention
        self.heads, self.head_dim = own.self.num_attention_heads, own.self.attention_head_size
        maps = (own.self.query, own.self.key, own.self.value)
        self.qkv_weight = torch.cat([linear.weight for linear in maps])
        self.qkv_bias = torch.cat([linear.bias for linear in maps])
        self.self_output: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = own.output
        self.query = cross.self.query
        by_head = (self.heads, self.head_dim, -1)
        # (heads, dim of a head, dim of a patch), with the scale of the products
        self.key_map = cross.self.key.weight.view(by_head) / self.head_dim**0.5
        self.value_map = cross.self.value.weight.view(by_head).transpose(1, 2)
        self.value_bias = cross.self.value.bias
        self.cross_output: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = cross.output
        self.intermediate, self.output = layer.intermediate, layer.output

    def step(
        self,
        hidden: Float[torch.Tensor, "rows dim"],
        position: int,
        keys: Float[torch.Tensor, "rows heads tokens head_dim"],
        values: Float[torch.Tensor, "rows heads tokens head_dim"],
        state: BlipState,
    ) -> Float[torch.Tensor, "rows dim"]:
        hidden = self.self_output(self._attend_to_tokens(hidden, position, keys, values), hidden)
        hidden = self.cross_output(self._attend_to_patches(hidden, state), hidden)
        return self.output(self.intermediate(hidden), hidden)

    def _attend_to_tokens(
        self, hidden: torch.Tensor, position: int, keys: torch.Tensor, values: torch.Tensor
    ) -> Float[torch.Tensor, "rows dim"]:
        """Attend to the tokens so far."""
        made = functional.linear(hidden, self.qkv_weight, self.qkv_bias).unflatten(-1, (3, self.heads, self.head_dim))
        query, keys[:, :, position], values[:, :, position] = made.unbind(1)
        until = slice(position + 1)
        found = functional.scaled_dot_product_attention(query[:, :, None], keys[:, :, until], values[:, :, until])
        return found.flatten(1)

    def _attend_to_patches(self, hidden: torch.Tensor, state: BlipState) -> Float[torch.Tensor, "rows dim"]:
        """Attend to the patches, which all heads and layers read as they are."""
        images, rows = len(state.patches), len(hidden)
        query = self.query(hidden).unflatten(-1, (self.heads, self.head_dim)).transpose(0, 1)  # (heads, rows, head_dim)
        asked = torch.bmm(query, self.key_map).transpose(0, 1)  # (rows, heads, dim)
        asked = asked.reshape(images, rows // images * self.heads, -1)
        scores = torch.bmm(asked, state.patches.transpose(1, 2))
        scores[:, :, state.count :].fill_(-torch.inf)  # padding
        found = torch.bmm(scores.softmax(dim=-1), state.patches)  # (images, beams * heads, dim)
        found = found.view(rows, self.heads, -1).transpose(0, 1)
        return torch.bmm(found, self.value_map).transpose(0, 1).flatten(1) + self.value_bias
