"""A tower from the hub: what `locate` fetches is all that `load` needs, with the vectors of the local files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import close_session
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file

from tests.hub import COMMIT, Hub, point_at, serving_hub
from tests.models import jina_published
from tests.models.encoders import (
    test_jina_clip,
    test_open_clip,
    test_sentence_transformers,
    test_timm,
    test_transformers,
)
from tests.tiny import CPU, TEXTS, photos, spread, tokenizer
from twinlens.config.models import (
    JinaClipTower,
    OpenClipTower,
    TimmTower,
    Tower,
    TransformersTower,
)
from twinlens.config.sentence_models import SentenceTransformersTower
from twinlens.core.errors import DataError
from twinlens.models import encoders
from twinlens.models.encoders.base import LoadedEncoders
from twinlens.models.weights import identify_weights

NOT_WANTED = {
    "README.md": b"# tiny",
    "pytorch_model.bin": b"the same again",
    "open_clip_pytorch_model.bin": b"the same again",
    "tf_model.h5": b"for another library",
    "onnx/model.onnx": b"for another library",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub({}) as running:
        point_at(running.url, tmp_path / "cache", monkeypatch)
        yield running
        close_session()


def published(folder: Path, **others: bytes) -> dict[str, bytes]:
    """A folder as its publisher puts it on the hub, with what comes along there."""
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return NOT_WANTED | files | others


def vectors(towers: LoadedEncoders) -> list[torch.Tensor]:
    with torch.inference_mode():
        pictures = [] if towers.image is None else [towers.image.encode(photos(3, towers.image.pixels.height))]
        return pictures + ([] if towers.text is None else [towers.text.encode(TEXTS)])


def fetched(tower: Tower) -> list[torch.Tensor]:
    """The vectors of a tower of which only the fetched files are here."""
    path = encoders.locate(tower)
    assert identify_weights(path)["commit"] == COMMIT
    return vectors(encoders.load(tower, path, CPU))


def same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return len(found) == len(wanted) > 0 and all(map(torch.equal, found, wanted))


def local(tower: Tower) -> list[torch.Tensor]:
    return vectors(encoders.load(tower, encoders.locate(tower), CPU))


def test_a_transformers_model(hub: Hub, tmp_path: Path) -> None:
    test_transformers.save_clip(tmp_path / "clip")
    hub.repos["someone/tiny"] = published(tmp_path / "clip")
    wanted = local(test_transformers.card(tmp_path / "clip"))
    assert same(fetched(TransformersTower(transformers="someone/tiny", revision=COMMIT)), wanted)
    assert not set(hub.fetched()) & set(NOT_WANTED)


def test_a_jina_clip_model(hub: Hub, tmp_path: Path) -> None:
    jina_published.save(tmp_path / "jina")
    hub.repos["someone/tiny"] = published(tmp_path / "jina", **{"1_Pooling/config.json": b"{}", "code.py": b"1 / 0"})
    wanted = local(test_jina_clip.card(tmp_path / "jina"))
    assert same(fetched(JinaClipTower(jina_clip="someone/tiny", revision=COMMIT)), wanted)
    assert sorted(hub.fetched()) == [
        *("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
    ]


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_a_sentence_transformers_model(mode: Any, hub: Hub, tmp_path: Path) -> None:
    folder = test_sentence_transformers.save(tmp_path, mode)
    hub.repos["someone/tiny"] = published(folder)
    wanted = local(test_sentence_transformers.card(folder))
    assert same(fetched(SentenceTransformersTower(sentence_transformers="someone/tiny", revision=COMMIT)), wanted)
    assert not set(hub.fetched()) & set(NOT_WANTED)


def test_a_sentence_transformers_model_without_safetensors(hub: Hub, tmp_path: Path) -> None:
    folder = test_sentence_transformers.save(tmp_path)
    wanted = local(test_sentence_transformers.card(folder))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    hub.repos["someone/tiny"] = published(folder)
    assert same(fetched(SentenceTransformersTower(sentence_transformers="someone/tiny", revision=COMMIT)), wanted)
    assert hub.fetched().count("pytorch_model.bin") == 1


def test_a_sentence_transformers_model_that_does_not_say_how_to_pool(hub: Hub) -> None:
    hub.repos["someone/tiny"] = NOT_WANTED | {"config.json": b"{}"}
    with pytest.raises(DataError, match=r"has no modules\.json"):
        encoders.locate(SentenceTransformersTower(sentence_transformers="someone/tiny", revision=COMMIT))


def test_a_timm_model(hub: Hub, tmp_path: Path) -> None:
    card = test_timm.save("test_vit", tmp_path / "vit")
    hub.repos["timm/test_vit.r160_in1k"] = published(tmp_path / "vit", **{"config.json": b"{}"})
    assert same(fetched(TimmTower(timm="test_vit.r160_in1k", revision=COMMIT)), local(card))
    assert hub.fetched() == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("beside", [True, False])
def test_an_open_clip_model_and_its_tokenizer(
    beside: bool, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tokenizer()
    config = test_open_clip.architecture(vocab_size=len(words), hf_tokenizer_name="someone/words")
    model = spread(CLIP(**test_open_clip.architecture(vocab_size=len(words))))
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", config)
    tag = {"hf_hub": "someone/clip/", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"mine": tag})
    (tmp_path / "clip").mkdir()
    save_file(model.state_dict(), tmp_path / "clip" / "open_clip_model.safetensors")
    words.save_pretrained(tmp_path / "clip" if beside else tmp_path / "words")
    hub.repos["someone/clip"] = published(tmp_path / "clip")
    if not beside:
        hub.repos["someone/words"] = published(tmp_path / "words")
    picture_vectors, text_vectors = fetched(OpenClipTower(open_clip="tiny-clip", pretrained="mine", revision=COMMIT))
    numbers = words(TEXTS, padding="max_length", max_length=test_open_clip.LENGTH, return_tensors="pt").input_ids
    with torch.inference_mode():
        wanted: Any = model
        assert (text_vectors - wanted.encode_text(numbers)).abs().max() < 1e-5
        assert (picture_vectors - wanted.encode_image(photos(3, 32) / 127.5 - 1)).abs().max() < 1e-5
    assert not set(hub.fetched()) & set(NOT_WANTED)
