"""The loop of captioners with a prompt against the library's own, on the same batches: words per word, and seconds.

python -m benchmarks.prompted_captions --pictures 32 --batch 8 --rounds 3
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from benchmarks.paired import alternate, median, ratio
from benchmarks.pictures import jpegs, shards
from twinlens.config.captioners import CaptionerCard
from twinlens.core.device import Placement, choose_device
from twinlens.core.scratch import Scratch
from twinlens.core.shards import iter_pixels
from twinlens.inference.caption_prompted import caption_by_prompt
from twinlens.models.captioners.prompted import PromptedCaptioner
from twinlens.training.tokenizer import END, PAD, START, UNKNOWN, learn_tokenizer

PROMPT = "describe the picture"
TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
TEMPLATE = (
    "user : {% for part in messages[0].content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %} {% endfor %}assistant :"
)


def make_model(layers: int, dim: int) -> tuple[Any, Any]:
    """A Qwen3-VL with random weights, and its processor."""
    known = learn_tokenizer([*(f"word{n}" for n in range(2000)), f"{PROMPT} user assistant :"])
    common = {"pad_token": PAD, "unk_token": UNKNOWN, "bos_token": START, "eos_token": END}
    words = PreTrainedTokenizerFast(tokenizer_object=known._tokenizer, **common, extra_special_tokens=TOKENS)
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(patch_size=16, merge_size=2),
        words,
        Qwen3VLVideoProcessor(patch_size=16),
        chat_template=TEMPLATE,
    )
    rope = {"rope_type": "default", "mrope_section": [8, 4, 4], "mrope_interleaved": True, "rope_theta": 1e4}
    text = {
        "vocab_size": len(words), "hidden_size": dim, "intermediate_size": 4 * dim, "num_hidden_layers": layers,
        "num_attention_heads": dim // 32, "num_key_value_heads": dim // 64, "head_dim": 32, "rope_parameters": rope,
    }  # fmt: skip
    vision = {
        "depth": layers, "hidden_size": dim, "intermediate_size": 4 * dim, "num_heads": dim // 32, "patch_size": 16,
        "out_hidden_size": dim, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    numbers = {f"{name}_id": words.convert_tokens_to_ids(token) for name, token in TOKENS.items()}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **numbers)
    torch.manual_seed(0)
    return Qwen3VLForConditionalGeneration(config), processor


def make_library_way(
    captioner: PromptedCaptioner, files: list[bytes], batch: int, placement: Placement
) -> Callable[[], list[str]]:
    """The loop that the library's documentation shows, a batch after the other."""
    model, processor = captioner.model, captioner.processor

    @torch.inference_mode()
    def caption() -> list[str]:
        texts: list[str] = []
        for at in range(0, len(files), batch):
            pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files[at : at + batch]]
            talks = [
                [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": PROMPT}]}]
                for picture in pictures
            ]
            inputs = processor.apply_chat_template(
                talks,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            ).to(placement.device, placement.dtype)
            ids = model.generate(**inputs, max_new_tokens=captioner.card.max_new_tokens, do_sample=False)
            texts += processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    return caption


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("pictures", 32), ("batch", 8), ("rounds", 3), ("layers", 6), ("dim", 256), ("tokens", 16)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    placement = choose_device(options.device)
    model, processor = make_model(options.layers, options.dim)
    card = CaptionerCard(captioner="transformers", hub="random/qwen3-vl", prompt=PROMPT, max_new_tokens=options.tokens)
    captioner = PromptedCaptioner(model, processor, card, placement)
    with tempfile.TemporaryDirectory() as folder:
        rows = shards(jpegs(None, options.pictures), Path(folder) / "resized", shortest_side_px=384)
        files = [file for _, file in iter_pixels(Path(folder) / "resized", rows)]
        runs = iter(range(10_000))

        def ours() -> list[str]:
            with Scratch("bench", f"{time.time_ns()}-{next(runs)}") as scratch:
                return caption_by_prompt(captioner, Path(folder) / "resized", rows, scratch, batch=options.batch)

        library = make_library_way(captioner, files, options.batch, placement)
        print(f"the same words: {sum(a == b for a, b in zip(ours(), library(), strict=True))} of {len(files)}")
        for what, clock in (("seconds", time.perf_counter), ("of a processor", time.process_time)):
            taken = alternate({"ours": ours, "library": library}, options.rounds, clock)
            print(
                f"{what}: ours {median(taken, 'ours'):.2f}, library {median(taken, 'library'):.2f}, "
                f"{ratio(taken, 'ours', 'library'):.3f} times it"
            )


if __name__ == "__main__":
    main()
