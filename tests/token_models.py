"""Models of token vectors of a few thousand parameters, as folders of the hub: a ColBERT for texts; for pictures a
ColQwen2, a ColPali, whose pictures have one size, and a NeoMME as it is published for sentence-transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from transformers import (
    BertConfig,
    BertModel,
    ColPaliConfig,
    ColPaliForRetrieval,
    ColPaliProcessor,
    ColQwen2Config,
    ColQwen2ForRetrieval,
    ColQwen2Processor,
    NeoMMEConfig,
    NeoMMEImageProcessor,
    NeoMMEModel,
    NeoMMEProcessor,
    PaliGemmaConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    SiglipImageProcessor,
)

from tests.multimodal import SPECIAL
from tests.tiny import TEXTS, sizes, spread, tokenizer

DIM = 16
EXPANDED = 12  # tokens of a query, those that stand for nothing included
SKIPPED = ["the", "a"]
MARKS = {"query": "red ", "document": "house "}


def save_colqwen(folder: Path, seed: int = 0) -> Path:
    """The model and its processor, as transformers writes them: no module of sentence-transformers is named."""
    words = tokenizer([*TEXTS, "user describe the image query"])
    words.add_tokens([*SPECIAL, "<|endoftext|>"], special_tokens=True)
    words.split_special_tokens = False
    start, end, picture, film = (
        int(words.convert_tokens_to_ids(f"<|{name}|>"))
        for name in ("vision_start", "vision_end", "image_pad", "video_pad")
    )
    model = Qwen2VLConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "rope_scaling": {"rope_type": "default", "type": "mrope", "mrope_section": [2, 3, 3]},
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2},
        image_token_id=picture,
        video_token_id=film,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    torch.manual_seed(seed)
    spread(ColQwen2ForRetrieval(ColQwen2Config(vlm_config=model, embedding_dim=DIM))).save_pretrained(folder)
    patches: dict[str, Any] = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    reader = Qwen2VLImageProcessor(size={"shortest_edge": 16 * 16, "longest_edge": 128 * 128}, **patches)
    ColQwen2Processor(reader, words).save_pretrained(folder)
    return folder


def save_colpali(folder: Path, seed: int = 0) -> Path:
    """The model and its processor, as transformers writes them."""
    words = tokenizer([*TEXTS, "describe the image question"])
    words.split_special_tokens = False
    reader: Any = SiglipImageProcessor(size={"height": 32, "width": 32})
    reader.image_seq_length = 16  # patches of 8 px
    processor = ColPaliProcessor(reader, words)
    layers = sizes(hidden_size=32, num_hidden_layers=2)
    model = PaliGemmaConfig(
        text_config=layers
        | {
            "model_type": "gemma",
            "vocab_size": len(words),
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "pad_token_id": words.pad_token_id,
        },
        vision_config=layers
        | {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, "projection_dim": 32},
        projection_dim=32,
        image_token_id=processor.image_token_id,
    )
    torch.manual_seed(seed)
    spread(ColPaliForRetrieval(ColPaliConfig(vlm_config=model, embedding_dim=DIM))).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


NEOMME: dict[str, Any] = {f"{name}_token": f"<{name}>" for name in ("query", "document", "image", "row", "mask")}
NEOMME_TEMPLATE = (
    "{% for m in messages %}{{ '<query>' if task == 'query' else '<document>' }}{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}"
)


def save_neomme(folder: Path, seed: int = 0) -> Path:
    """One tower for words and patches, and a head: as a folder of sentence-transformers, fed by a chat template."""
    words = tokenizer()
    words.split_special_tokens = False
    words._set_model_specific_special_tokens(NEOMME)
    words.add_tokens(list(NEOMME.values()), special_tokens=True)
    inner: Any = words.backend_tokenizer
    inner.post_processor = None  # the template writes all that stands around a text
    config = NeoMMEConfig(
        vocab_size=len(words),
        embedding_rank=16,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        sliding_window=8,
        patch_size=16,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
        pad_token_id=words.pad_token_id,
        document_token_id=words.convert_tokens_to_ids("<document>"),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        **sizes(num_hidden_layers=3),
    )
    torch.manual_seed(seed)
    spread(NeoMMEModel(config)).save_pretrained(folder / "neomme")
    reader = NeoMMEImageProcessor(patch_size=16)
    NeoMMEProcessor(reader, words, chat_template=NEOMME_TEMPLATE).save_pretrained(folder / "neomme")
    names: dict[str, Any] = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    head = Dense(32, DIM, bias=False, activation_function=torch.nn.Identity(), **names)
    modules = [Transformer(str(folder / "neomme")), head, MultiVectorMask(), Normalize(**names)]
    MultiVectorEncoder(modules=modules, device="cpu").save(str(folder / "late"))
    return folder / "late"


def save_colbert(folder: Path, attend: bool = False) -> Path:
    """A BERT with a head: queries are lengthened, words of items are skipped, both are marked."""
    words = tokenizer()
    words.model_max_length = 24
    spread(BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=24, **sizes()))).save_pretrained(
        folder / "bert"
    )
    words.save_pretrained(folder / "bert")
    expansion: Any = {"strategy": "fixed", "attend": attend, "length": EXPANDED}
    torch.manual_seed(1)
    head = Dense(
        32,
        DIM,
        bias=False,
        activation_function=torch.nn.Identity(),
        module_input_name="token_embeddings",
        module_output_name="token_embeddings",
    )
    modules = [
        Transformer(str(folder / "bert"), query_expansion=expansion),
        head,
        MultiVectorMask(skiplist_words=SKIPPED),
        Normalize(module_input_name="token_embeddings"),
    ]
    MultiVectorEncoder(modules=modules, device="cpu", prompts=MARKS).save(str(folder / "colbert"))
    return folder / "colbert"
