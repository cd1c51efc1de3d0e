"""SigLIP 2 NaFlex, which keeps a picture's shape: the library's own processor and vectors, alone and in batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import simplejpeg
import torch
from PIL import Image
from transformers import CLIPImageProcessor, Siglip2Config, Siglip2ImageProcessor, Siglip2Model

from tests.multimodal import SHAPES
from tests.tiny import CPU, TEXTS, photo, sizes, special_tokens, spread, tokenizer
from twinlens.config.models import TransformersTower
from twinlens.models import encoders, references
from twinlens.models.encoders.base import LoadedEncoders, encode_jpegs

POSITIONS = 16
JPEGS = [
    simplejpeg.encode_jpeg(photo(seed, *shape), quality=95, colorsubsampling="444") for seed, shape in enumerate(SHAPES)
]


def save_naflex(folder: Path) -> Siglip2Model:
    words = tokenizer()
    text = sizes(vocab_size=len(words), max_position_embeddings=POSITIONS, projection_size=32, **special_tokens(words))
    vision = sizes(patch_size=8, num_patches=64)
    model = spread(Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)))
    for part in (model, words, Siglip2ImageProcessor(patch_size=8, max_num_patches=64)):
        part.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("naflex")
    save_naflex(path)
    return path


def card(folder: Path) -> TransformersTower:
    return TransformersTower(transformers="someone/tiny", checkpoint=str(folder))


def load(folder: Path) -> LoadedEncoders:
    return encoders.load(card(folder), encoders.locate(card(folder)), CPU)


def by_library(folder: Path) -> list[torch.Tensor]:
    model, processor = Siglip2Model.from_pretrained(folder), Siglip2ImageProcessor.from_pretrained(folder)
    decoded = [Image.fromarray(simplejpeg.decode_jpeg(jpeg, colorspace="RGB")) for jpeg in JPEGS]
    with torch.inference_mode():
        read: list[Any] = [processor(images=[one], return_tensors="pt") for one in decoded]
        return [model.get_image_features(**one).pooler_output for one in read]


def test_pictures_of_any_shape_have_the_librarys_vectors_alone_and_in_batches(folder: Path) -> None:
    loaded, wanted = load(folder), torch.cat(by_library(folder))
    assert loaded.image is None
    with torch.inference_mode():
        together = encode_jpegs(loaded, JPEGS)
        alone = torch.cat([encode_jpegs(loaded, [jpeg]) for jpeg in JPEGS])
    assert (together - wanted).abs().max() < 1e-5
    assert (alone - wanted).abs().max() < 1e-5
    assert (wanted[0] - wanted[1]).abs().max() > 0.05


def test_the_reference_is_the_librarys_path(folder: Path) -> None:
    reference = references.build(card(folder), folder, loaded := load(folder), CPU)
    assert reference is not None
    assert reference.picture is not None
    assert reference.text is not None
    assert loaded.text is not None
    picture = Image.fromarray(simplejpeg.decode_jpeg(JPEGS[0], colorspace="RGB"))
    with torch.inference_mode():
        assert (reference.picture(picture) - by_library(folder)[0]).abs().max() < 1e-5
        assert (reference.text(TEXTS[0]) - loaded.text.encode(TEXTS[:1])).abs().max() < 1e-5


def test_a_processor_that_does_more_than_we_know_is_asked_itself(tmp_path: Path) -> None:
    from tests.models.encoders.test_transformers import save_clip

    save_clip(tmp_path)
    assert load(tmp_path).native is None
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(resample=1, size=size, crop_size=size).save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.image is None
    assert loaded.native is not None
    assert encode_jpegs(loaded, JPEGS).shape[0] == len(JPEGS)
