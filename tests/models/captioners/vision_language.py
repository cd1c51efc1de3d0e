"""Vision-language models of a few thousand parameters, each saved as the hub has them: weights, processor, template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import processors
from transformers import (
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipImageProcessor,
)

from tests.tiny import TEXTS, sizes, spread
from twinlens.training.tokenizer import END, PAD, START, UNKNOWN, learn_tokenizer

PROMPT = "a red car"
SYSTEM = "two dogs"
CHAT = (
    "{% for message in messages %}{{ message.role }} : {% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
SIDE_PX = 32


def words(**tokens: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that begins each text with a token, and knows some special ones by name."""
    known = learn_tokenizer([*TEXTS, "user assistant system : what does the image describe ?"])
    start = known.bos_token_id
    known._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, start)]
    )
    common = {"pad_token": PAD, "unk_token": UNKNOWN, "bos_token": START, "eos_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=known._tokenizer, **common, extra_special_tokens=tokens)


def text_sizes(known: PreTrainedTokenizerFast, **others: Any) -> dict[str, Any]:
    numbers = {name: getattr(known, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    few = sizes(vocab_size=len(known), num_key_value_heads=1, head_dim=16, max_position_embeddings=512)
    return few | numbers | others


def build(kind: str, chat: bool = True) -> tuple[Any, Any]:
    """A model of the real architecture, and the library's own processor for it; some have a chat template."""
    return BUILDERS[kind](chat)


def _template(chat: bool, image: str) -> dict[str, str]:
    return {"chat_template": CHAT.replace("IMAGE", image)} if chat else {}


def _qwen3_vl(chat: bool) -> tuple[Any, Any]:
    names = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }
    known = words(**names)
    pixels = Qwen2VLImageProcessor(
        patch_size=8, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
    )
    video = Qwen3VLVideoProcessor(patch_size=8, merge_size=2, temporal_patch_size=2)
    processor = Qwen3VLProcessor(pixels, known, video, **_template(chat, "<|vision_start|><|image_pad|><|vision_end|>"))
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True, "rope_theta": 10000.0}
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 8, "out_hidden_size": 32,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }  # fmt: skip
    numbers = {f"{name}_id": known.convert_tokens_to_ids(token) for name, token in names.items()}
    config = Qwen3VLConfig(
        text_config=text_sizes(known, rope_parameters=rope), vision_config=vision, tie_word_embeddings=True, **numbers
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _idefics3(chat: bool) -> tuple[Any, Any]:
    known = words(
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
        **{f"tile_{row}_{col}": f"<row_{row}_col_{col}>" for row in (1, 2, 3) for col in (1, 2, 3)},
    )
    pixels = Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": SIDE_PX})
    processor = Idefics3Processor(pixels, known, image_seq_len=4, **_template(chat, "<image>"))
    config = Idefics3Config(
        text_config=text_sizes(known) | {"model_type": "llama"},
        vision_config=sizes(image_size=SIDE_PX, patch_size=8),
        image_token_id=known.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=known.pad_token_id,
    )
    return Idefics3ForConditionalGeneration(config), processor


def _llava(chat: bool) -> tuple[Any, Any]:
    known = words(image_token="<image>")
    pixels = CLIPImageProcessor(
        size={"shortest_edge": SIDE_PX}, crop_size={"height": SIDE_PX, "width": SIDE_PX}, do_center_crop=True
    )
    processor = LlavaProcessor(
        pixels,
        known,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        **_template(chat, "<image>"),
    )
    config = LlavaConfig(
        text_config=text_sizes(known) | {"model_type": "llama"},
        vision_config=sizes(image_size=SIDE_PX, patch_size=8) | {"model_type": "clip_vision_model"},
        image_token_index=known.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config), processor


def _siglip(tokens: int) -> Any:
    pixels = SiglipImageProcessor(size={"height": SIDE_PX, "width": SIDE_PX})
    pixels.image_seq_length = tokens
    return pixels


def _paligemma(chat: bool) -> tuple[Any, Any]:
    known = words(image_token="<image>")
    processor = PaliGemmaProcessor(_siglip(16), known)
    config = PaliGemmaConfig(
        text_config=text_sizes(processor.tokenizer) | {"model_type": "gemma2", "sliding_window": 128},
        vision_config=sizes(image_size=SIDE_PX, patch_size=8, vision_use_head=False)
        | {"model_type": "siglip_vision_model"},
        image_token_index=known.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
        tie_word_embeddings=False,  # else a model of random numbers says the last word again
        vocab_size=len(processor.tokenizer),
    )
    return PaliGemmaForConditionalGeneration(config), processor


def _gemma3(chat: bool) -> tuple[Any, Any]:
    known = words(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    pixels = Gemma3ImageProcessor(size={"height": SIDE_PX, "width": SIDE_PX})
    template = _template(chat, "<start_of_image>")
    if chat:  # as that of the hub has it
        template = {"chat_template": "{{ bos_token }}" + template["chat_template"]}
    processor = Gemma3Processor(pixels, known, image_seq_length=4, **template)
    config = Gemma3Config(
        text_config=text_sizes(known, sliding_window=128),
        vision_config=sizes(image_size=SIDE_PX, patch_size=8, vision_use_head=False),
        mm_tokens_per_image=4,
        tie_word_embeddings=False,
        image_token_index=known.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=known.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=known.convert_tokens_to_ids("<end_of_image>"),
    )
    return Gemma3ForConditionalGeneration(config), processor


def _florence2(chat: bool) -> tuple[Any, Any]:
    known = words(image_token="<image>")
    pixels = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    pixels.image_seq_length = 5
    processor = Florence2Processor(pixels, known, num_additional_image_tokens=1)
    numbers = {name: getattr(known, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {
        "model_type": "bart", "vocab_size": len(known), "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
        "max_position_embeddings": 64, "decoder_start_token_id": known.eos_token_id, "forced_eos_token_id": None,
    }  # fmt: skip
    vision = {
        "depths": [1, 1], "embed_dim": [16, 32], "num_heads": [2, 2], "num_groups": [2, 2], "patch_size": [7, 3],
        "patch_stride": [4, 8], "patch_padding": [3, 1], "patch_prenorm": [False, True], "window_size": 4,
        "projection_dim": 32, "max_temporal_embeddings": 8, "max_position_embeddings": 8, "drop_path_rate": 0.0,
    }  # fmt: skip
    config = Florence2Config(
        text_config=text | numbers, vision_config=vision, image_token_id=known.convert_tokens_to_ids("<image>"),
        **numbers,
    )  # fmt: skip
    return Florence2ForConditionalGeneration(config), processor


def _internvl(chat: bool) -> tuple[Any, Any]:
    known = words(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    size = {"height": SIDE_PX, "width": SIDE_PX}
    pixels = GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=3)
    video = InternVLVideoProcessor(size=size)
    processor = InternVLProcessor(pixels, known, video, image_seq_length=4, **_template(chat, "<IMG_CONTEXT>"))
    vision = sizes(image_size=[SIDE_PX, SIDE_PX], patch_size=[8, 8], layer_scale_init_value=0.1)
    config = InternVLConfig(
        text_config=text_sizes(known) | {"model_type": "qwen2"},
        vision_config=vision | {"model_type": "internvl_vision"},
        image_token_id=known.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    return InternVLForConditionalGeneration(config), processor


BUILDERS = {
    "internvl": _internvl,
    "qwen3_vl": _qwen3_vl,
    "idefics3": _idefics3,
    "llava": _llava,
    "paligemma": _paligemma,
    "gemma3": _gemma3,
    "florence2": _florence2,
}
OF_CHATS = ("internvl", "qwen3_vl", "idefics3", "llava", "gemma3")


def save(kind: str, folder: Path, chat: bool = True, scale: float = 0.3) -> tuple[Any, Any]:
    """The same, written in the library's own layout."""
    model, processor = build(kind, chat)
    spread(model, scale=scale)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor
