"""Facts on the cards of models, held against the architectures: built without weights, on torch's meta device."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import timm.data
import torch
from transformers import (
    AltCLIPConfig,
    AutoModel,
    ChineseCLIPConfig,
    ColModernVBertConfig,
    ColModernVBertForRetrieval,
    ColPaliConfig,
    ColPaliForRetrieval,
    ColQwen2Config,
    ColQwen2ForRetrieval,
    JinaEmbeddingsV3Config,
    M2M100Config,
    MetaClip2Config,
    NeoMMEConfig,
    NeoMMEForRetrieval,
    PreTrainedConfig,
    Tipsv2Config,
)

from twinlens.config.load import read_params
from twinlens.config.models import (
    EndpointTower,
    OpenClipTower,
    TimmTower,
    Tower,
    TransformersTower,
    VectorsTower,
    WordVectorsTower,
)
from twinlens.config.sentence_models import MultiVectorTower, SentenceTransformersTower
from twinlens.models.encoders.jina_clip import MAX_TOKENS
from twinlens.models.jina_checkpoint import JinaConfig, build_towers, lay_out

PARAMS = read_params()
ELSEWHERE = (WordVectorsTower, VectorsTower, EndpointTower)  # no model of ours
UNSAID = {"fasterrcnn", "clip-001-run-1"}  # whose architecture says no more than their card
NEAR = 1e-3  # of the parameters: of a configuration that only the hub has, written down here from its sizes

TOWERS = [
    pytest.param(name, role, tower, id=f"{name}-{role}")
    for name, card in sorted(PARAMS.models.items())
    for role, tower in card.towers().items()
    if not isinstance(tower, ELSEWHERE) and (card.train is None or tower.about.parameters)
]

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
TEXT_512 = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
CONFIGURATIONS: dict[str, PreTrainedConfig] = {
    "BAAI/AltCLIP": AltCLIPConfig(
        text_config=LARGE | {"intermediate_size": 4096, "vocab_size": 250002, "project_dim": 768},
        vision_config=LARGE | {"intermediate_size": 4096, "patch_size": 14, "image_size": 224},
        projection_dim=768,
    ),
    "google/tipsv2-b14": Tipsv2Config(),
    "google/tipsv2-l14": Tipsv2Config(
        text_config={"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}, vision_config=LARGE
    ),
    "OFA-Sys/chinese-clip-vit-base-patch16": ChineseCLIPConfig(
        text_config={"vocab_size": 21128}, vision_config={"patch_size": 16}, projection_dim=512
    ),
    "facebook/metaclip-2-mt5-worldwide-b32": MetaClip2Config(
        text_config={"vocab_size": 250112, "eos_token_id": 1} | TEXT_512,
        vision_config={"patch_size": 32, "image_size": 224},
        projection_dim=512,
    ),
}
NLLB_600M = M2M100Config(
    vocab_size=256206,
    d_model=1024,
    encoder_layers=12,
    decoder_layers=12,
    encoder_ffn_dim=4096,
    decoder_ffn_dim=4096,
)
# Sizes as published; both counts are those of mteb's registry and of gme-qwen2-vl-2b, the same model, and a head more.
TOKEN_VECTORS: dict[str, tuple[Any, Any]] = {
    "colmodernvbert": (
        ColModernVBertForRetrieval,
        ColModernVBertConfig(
            vlm_config={
                "model_type": "modernvbert",
                "text_config": {"vocab_size": 50408},
                "vision_config": {"image_size": 512},
            }
        ),
    ),
    "colpali": (
        ColPaliForRetrieval,
        ColPaliConfig(
            vlm_config={
                "model_type": "paligemma",
                "projection_dim": 2048,
                "text_config": {
                    "model_type": "gemma",
                    "hidden_size": 2048,
                    "intermediate_size": 16384,
                    "num_hidden_layers": 18,
                    "num_attention_heads": 8,
                    "num_key_value_heads": 1,
                    "head_dim": 256,
                    "vocab_size": 257216,
                },
                "vision_config": {
                    "model_type": "siglip_vision_model",
                    "hidden_size": 1152,
                    "intermediate_size": 4304,
                    "num_hidden_layers": 27,
                    "num_attention_heads": 16,
                    "patch_size": 14,
                    "image_size": 448,
                    "projection_dim": 2048,
                    "vision_use_head": False,
                },
            }
        ),
    ),
    "neomme-260m": (NeoMMEForRetrieval, NeoMMEConfig()),
    "colqwen2": (
        ColQwen2ForRetrieval,
        ColQwen2Config(
            vlm_config={
                "model_type": "qwen2_vl",
                "text_config": {
                    "hidden_size": 1536,
                    "intermediate_size": 8960,
                    "num_hidden_layers": 28,
                    "num_attention_heads": 12,
                    "num_key_value_heads": 2,
                    "vocab_size": 151936,
                },
                "vision_config": {"hidden_size": 1536},
            }
        ),
    ),
}


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def side(size: Any) -> int:
    height, width = (size, size) if isinstance(size, int) else size[-2:]
    assert height == width
    return int(height)


def build_open_clip(tower: OpenClipTower, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The architecture on the meta device; of a text tower that the hub describes with the sizes known here."""
    config = open_clip.get_model_config(tower.open_clip)
    if "hf_model_name" in config["text_cfg"]:
        known = type("Known", (), {"from_pretrained": staticmethod(lambda *names, **options: NLLB_600M)})
        monkeypatch.setattr("open_clip.hf_model.AutoConfig", known)
    with torch.device("meta"):
        return open_clip.create_model(tower.open_clip, device="meta", load_weights=False, pretrained_text=False)


@pytest.mark.parametrize(("name", "role", "tower"), TOWERS)
def test_a_card_says_what_a_choice_needs(name: str, role: str, tower: Tower) -> None:
    about = tower.about
    if name in UNSAID:
        pytest.skip("its card says no more than its licence")
    assert about.parameters and about.dims
    if not isinstance(tower, SentenceTransformersTower):  # which take pictures at their own size
        assert (about.input_px is not None) is (role != "text")
    assert (about.context_tokens is not None and about.languages != ()) is (role != "image")


@pytest.mark.parametrize(
    ("name", "role", "tower"), [one for one in TOWERS if isinstance(one.values[2], OpenClipTower | TimmTower)]
)
def test_a_card_says_what_its_architecture_has(
    name: str, role: str, tower: OpenClipTower | TimmTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tower.about
    if isinstance(tower, TimmTower):
        with torch.device("meta"):
            model = timm.create_model(tower.timm, pretrained=False, **tower.kwargs).eval()
            model.reset_classifier(0)
            size = (timm.data.resolve_model_data_config(model) | tower.preprocess)["input_size"]
            vectors = model(torch.zeros(1, *size))
        assert (about.parameters, about.dims, about.input_px) == (count(model), vectors.shape[-1], side(size))
        return
    assert tower.pretrained in open_clip.list_pretrained_tags_by_model(tower.open_clip)
    config = open_clip.get_model_config(tower.open_clip)
    joint = build_open_clip(tower, monkeypatch)
    reads = config["text_cfg"].get("context_length", 77)  # what the tokenizer fills
    assert (about.parameters, about.dims) == (count(joint), config["embed_dim"])
    assert (about.input_px, about.context_tokens) == (side(joint.visual.image_size), min(joint.context_length, reads))


@pytest.mark.parametrize("name", ["altclip", "tipsv2-b-14", "tipsv2-l-14", "chinese-clip-b-16", "metaclip2-b-32-mt5"])
def test_a_card_of_transformers_says_what_its_architecture_has(name: str) -> None:
    tower = PARAMS.models[name].joint
    assert isinstance(tower, TransformersTower)
    config: Any = CONFIGURATIONS[tower.transformers]
    with torch.device("meta"):
        model: Any = AutoModel.from_config(config)
        pixels = torch.zeros(1, 3, config.vision_config.image_size, config.vision_config.image_size)
        dims = model.get_image_features(pixel_values=pixels).pooler_output.shape[-1]
    about = tower.about
    assert about.parameters == pytest.approx(count(model), rel=NEAR)
    assert (about.dims, about.input_px) == (dims, config.vision_config.image_size)
    first = config.text_config.pad_token_id + 1 if name == "altclip" else 0  # positions before are the padding's
    assert about.context_tokens == config.text_config.max_position_embeddings - first


@pytest.mark.parametrize("name", sorted(TOKEN_VECTORS))
def test_a_card_of_token_vectors_says_what_its_architecture_has(name: str) -> None:
    tower, (kind, config) = PARAMS.models[name].joint, TOKEN_VECTORS[name]
    assert isinstance(tower, MultiVectorTower)
    with torch.device("meta"):
        found = count(kind(config))
    about = tower.about
    assert about.parameters == found
    assert (about.dims, about.context_tokens) == (
        config.embedding_dim,
        config.get_text_config().max_position_embeddings,
    )


def test_the_card_of_jina_clip_v2_says_what_its_checkpoint_holds() -> None:
    sizes = {"width": 1024, "layers": 24, "head_width": 64, "mlp_ratio": 2.6667, "embed_dim": 1024}
    config = JinaConfig(
        vision=sizes | {"image_size": 512, "patch_size": 14},
        text=JinaEmbeddingsV3Config(),
        adapters=1,
        adapter=0,
        rank=4,
        scale=1.0,
    )
    with torch.device("meta"):
        layout = lay_out(*build_towers(config), config)
    joint = PARAMS.models["jina-clip-v2"].joint
    assert joint is not None
    about = joint.about
    assert about.parameters == sum(value.numel() for value in layout.values())
    assert (about.dims, about.input_px, about.context_tokens) == (config.dim, 512, MAX_TOKENS)


@pytest.mark.parametrize(
    ("name", "hub"),
    [("siglip2-b-16", 375_187_970), ("siglip2-l-16-384", 881_854_466), ("siglip2-so400m-384", 1_136_039_602)],
)
def test_open_clips_copies_of_siglip_2_have_the_parameters_of_googles_own(name: str, hub: int) -> None:
    assert PARAMS.models[name].joint.about.parameters == hub  # type: ignore[union-attr]


def test_the_configurations_written_down_here_are_of_cards() -> None:
    named = {getattr(tower.values[2], "transformers", None) for tower in TOWERS}
    assert set(CONFIGURATIONS) <= named
