"""Cards made of mteb's registry and of configurations of the hub, without running either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.make_card import main, shorten_languages, spell_licence
from twinlens.config.models import ModelCard

COMMIT = "75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2"
REGISTRY = f'''
raise RuntimeError("it is never run")
joint = ModelMeta(
    loader=Wrapper, name="google/siglip2-base-patch16-224", languages=["eng-Latn"], revision="{COMMIT}",
    modalities=["image", "text"], n_parameters=375_187_970, max_tokens=64, embed_dim=768, license="apache-2.0",
)
words = ModelMeta(
    name="someone/words", languages=XLMR_LANGUAGES, revision="{COMMIT}", n_parameters=None, max_tokens=512,
    embed_dim=[32, 128, 64], license="cc-by-nc-4.0", modalities=["text"],
)
seen = ModelMeta(name="facebook/dinov2-small", modalities=["image"], revision="{COMMIT}")
paid = ModelMeta(name="some/service", revision="1", modalities=["image", "text"])
'''


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    folder = tmp_path / "mteb/models/model_implementations"
    folder.mkdir(parents=True)
    (folder / "some_models.py").write_text(REGISTRY, encoding="utf-8")
    return tmp_path


def made(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    main([str(argument) for argument in arguments])
    card: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    ModelCard.model_validate(card)
    return card


def test_an_entry_of_the_registry_becomes_a_card(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = made(capsys, "google/siglip2-base-patch16-224", "--mteb", wheel)
    about = {"licence": "Apache-2.0", "source": "the registry of mteb", "parameters": 375_187_970}
    about |= {"dims": 768, "context_tokens": 64, "languages": ["en"]}
    tower = {"transformers": "google/siglip2-base-patch16-224", "revision": COMMIT, "about": about}
    assert card == {"joint": tower}


def test_a_text_model_with_several_lengths_of_vectors_says_so(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = made(capsys, "someone/words", "--mteb", wheel)
    assert card["matryoshka"] == [32, 64]
    assert card["text"]["sentence_transformers"] == "someone/words"
    about = card["text"]["about"]
    assert (about["dims"], about["licence"], about["languages"]) == (128, "CC-BY-NC-4.0", ["multilingual"])
    assert "parameters" not in about


def test_a_configuration_of_the_hub_becomes_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    words = {"max_position_embeddings": 77, "hidden_size": 512}
    file.write_text(json.dumps({"projection_dim": 512, "text_config": words, "vision_config": {"image_size": 224}}))
    card = made(capsys, "some/clip", "--config", file, "--licence", "mit")
    assert card["joint"]["about"] == {
        "note": "Its commit could not be learned here: pin it.",
        "licence": "MIT",
        "source": "config.json of the hub",
        "dims": 512,
        "input_px": 224,
        "context_tokens": 77,
    }
    assert made(capsys, "some/clip", "--config", file, "--revision", COMMIT)["joint"]["revision"] == COMMIT


@pytest.mark.parametrize(
    ("saved", "role", "family"),
    [
        ({"config.json": {"model_type": "bert"}, "modules.json": []}, "text", "sentence_transformers"),
        ({"config.json": {"vision_config": {}}, "modules.json": []}, "joint", "sentence_transformers"),
        ({"config.json": {"text_config": {}, "vision_config": {}, "projection_dim": 8}}, "joint", "transformers"),
    ],
)
def test_a_folder_on_the_disk_becomes_a_card_that_names_it(
    saved: dict[str, Any], role: str, family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in saved.items():
        (tmp_path / name).write_text(json.dumps(content))
    card = made(capsys, "mine", "--checkpoint", tmp_path, "--licence", "mit")
    assert card[role][family] == "mine"
    assert card[role]["checkpoint"] == str(tmp_path)
    assert card[role]["about"]["licence"] == "MIT"
    assert "note" not in card[role]["about"]  # there is no commit to pin


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["google/siglip2-base-patch16-22", "--mteb", "{}"],
            "has no google/siglip2-base-patch16-22; near it: g",
        ),
        (["facebook/dinov2-small", "--mteb", "{}"], "reads image: take timm's copy of it"),
        (["some/service", "--mteb", "{}"], "what is known of some/service makes no card: String should match pattern"),
        (["a/b", "--mteb", "{}/nothing"], "holds no mteb/models/model_implementations: unpack the wheel there"),
        (["a/b", "--config", "{}/none.json"], "none.json cannot be read as JSON"),
        (["a/b", "--config", "{}/own.json"], "brings code of its own (`auto_map`)"),
        (["a/b", "--config", "{}/text.json"], "has no `text_config` and `vision_config`"),
    ],
)
def test_what_makes_no_card_is_said(wheel: Path, arguments: list[str], told: str) -> None:
    (wheel / "own.json").write_text('{"auto_map": {}}')
    (wheel / "text.json").write_text('{"hidden_size": 3}')
    with pytest.raises(SystemExit) as caught:
        main([argument.format(wheel) for argument in arguments])
    assert told in str(caught.value)


def test_licences_and_languages_are_written_as_on_other_cards() -> None:
    assert [spell_licence(name) for name in ("mit", "apache-2.0", "cc-by-nc-4.0", "gemma", "not specified", None)] == [
        *("MIT", "Apache-2.0", "CC-BY-NC-4.0", "gemma", None, None)
    ]
    assert shorten_languages(["eng-Latn", "cmn-Hans", "zho-Hans", "swe-Latn"]) == ["en", "zh", "swe"]
    assert shorten_languages(["eng-Latn"] * 7) == ["multilingual"]
    assert shorten_languages(None) == []
