"""Values that no stage could use: refused by key before anything slow, and read as DVC reads them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import parse_yaml as parse_as_dvc
from pydantic import ValidationError

from twinlens.config.architectures import refuse_impossible_blip, refuse_impossible_open_clip
from twinlens.config.datasets import WebDatasetCard
from twinlens.config.explain import explain_problems
from twinlens.config.load import check_cards, read_params
from twinlens.config.params import Settings
from twinlens.config.yaml_file import parse_yaml
from twinlens.core.errors import ParamsError

RAW = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
Keys = tuple[str, ...]


def numeric_keys(node: dict[str, Any], keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from numeric_keys(value, (*keys, key))
        elif not isinstance(value, str) and value is not None:
            yield (*keys, key), value


NUMERIC = list(numeric_keys(RAW))
EMPTY_IS_MEANT = {"shortest_side_px", "near_duplicate_bits", "refine", "ef"}
ZERO_IS_MEANT = {"near_duplicate_bits", "validation_pictures", "negatives", "lambda_q", "seed", "image_weight"} | {
    "max_repeated_share",
    "max_tied_share",
}


def changed(keys: Keys, value: Any) -> dict[str, Any]:
    content: dict[str, Any] = deepcopy(RAW)
    node = content
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    return content


def written(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "cards").symlink_to(Path("cards").absolute())
    (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder / "params.yaml"


@pytest.mark.parametrize(("keys", "value"), NUMERIC, ids=lambda found: ".".join(found) if type(found) is tuple else "")
def test_a_number_that_cannot_be_used_is_refused_by_its_key(keys: Keys, value: Any) -> None:
    wrong: list[Any] = [-1, math.inf, -math.inf, math.nan, 10**30, "abc", "5", [None], {}]
    wrong += [] if keys[-1] in EMPTY_IS_MEANT or (keys[0] == "search" and keys[-1] == "text_weight") else [None]
    wrong += [] if isinstance(value, bool) else [True]
    wrong += [] if keys[-1] in ZERO_IS_MEANT or keys[-2:] == ("category_search", "negatives") else [0]
    for given in wrong:
        content = changed(keys, given)
        with pytest.raises(ValidationError) as told:
            Settings.model_validate(content)
        assert any(found.startswith(".".join(keys)) for _, found in explain_problems(told.value, content, Settings))


def test_numbers_as_people_write_them_are_taken(tmp_path: Path) -> None:
    path = written(tmp_path, changed(("hybrid", "rrf_constant"), 60))
    path.write_text(path.read_text().replace("rrf_constant: 60", "rrf_constant: 6e1"), encoding="utf-8")
    assert read_params(path).hybrid.rrf_constant == 60.0


@pytest.mark.parametrize("given", [[8], {"a": 1}, [], [[2, 2]]])
def test_a_size_of_an_architecture_that_is_no_number_is_refused_by_its_key(given: Any) -> None:
    for refuse, keys in (
        (refuse_impossible_open_clip, ("text_cfg", "width")),
        (refuse_impossible_open_clip, ("vision_cfg", "head_width")),
        (refuse_impossible_blip, ("text_config", "num_attention_heads")),
        (refuse_impossible_blip, ("vision_config", "hidden_size")),
    ):
        with pytest.raises(ValueError, match=rf"{'.'.join(keys)} is .*, wanted a whole number from 1 to"):
            refuse({keys[0]: {keys[1]: given}})
    refuse_impossible_open_clip({"vision_cfg": {"layers": [1, 1, 1, 1], "image_size": [64, 64], "width": 16}})


@pytest.mark.parametrize("device", ["abc", "cuda:", "cuda:x", "", "CPU"])
def test_a_device_of_another_name_is_refused_before_torch_is_asked(device: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"compute\.device"):
        read_params(written(tmp_path, changed(("compute", "device"), device)))


# ---------------------------------------------------------------- YAML, twice

WORDS = [
    "0",
    "7",
    "00",
    "07",
    "0120",
    "089",
    "0o17",
    "0o9",
    "0x1F",
    "0b11",
    "1_000",
    "1_000.5",
    "1__0",
    "12:30",
    "12:30:45",
    "1:2:3.5",
    "1e3",
    "1e-3",
    "1E3",
    "1.e3",
    "1.0e3",
    "1.5e+3",
    ".5",
    ".5e3",
    ".5e+3",
    "+.5",
    "-.5",
    "5.",
    "+5",
    "-5",
    "yes",
    "Yes",
    "no",
    "off",
    "On",
    "y",
    "n",
    "true",
    "True",
    "tRue",
    "false",
    "null",
    "Null",
    "~",
    "nan",
    ".nan",
    ".NaN",
    ".inf",
    "-.inf",
    "inf",
    "2001-01-01",
    "1e400",
    "1e-400",
    "00.1",
    "01.5",
    "1.2.3",
    "1,000",
    "0_1",
    "0x_1",
    "0o",
    "0b",
    "-0120",
    "+0120",
    "1e",
    "e3",
    "._5",
    "5._",
    "1._5",
    "0.5_5",
    "08",
    "0e3",
    "1:60",
    "a:b",
]


@pytest.mark.parametrize("word", WORDS)
def test_a_value_is_what_dvc_notes_or_is_refused(word: str) -> None:
    text = f"key: {word}\n"
    try:
        ours = parse_yaml(text.encode(), "params.yaml")["key"]
    except ParamsError as error:
        assert str(error).startswith("params.yaml, line 1 is not valid YAML: ")
        assert word in str(error)
        return
    theirs = parse_as_dvc(text, "params.yaml")["key"]
    assert type(ours) is type(theirs)
    assert ours == theirs or (math.isnan(ours) and math.isnan(theirs))


@pytest.mark.parametrize("word", ["0120", "0o17", "yes", "12:30:45", "1e400"])
def test_what_the_two_read_differently_is_refused(word: str) -> None:
    with pytest.raises(ParamsError, match=f"'?{word}'? is "):
        parse_yaml(f"key: {word}".encode(), "params.yaml")


def test_what_is_quoted_is_a_text(tmp_path: Path) -> None:
    assert parse_yaml(b"a: 'yes'\nb: \"0120\"\n", "p") == {"a": "yes", "b": "0120"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"rank:\n  depth: 5\n  seed: 0\n  depth: 6\n", "line 4 is not valid YAML: the key 'depth' stands there twice"),
        (b"a: 1\n'a': 2\n", "line 2 is not valid YAML: the key 'a' stands there twice"),
        (b"a: {b: 1, b: 2}", "the key 'b' stands there twice"),
        (b"[" * 100_000, "nested over 64 deep"),
        (b"- " * 5_000 + b"a", "nested over 64 deep"),
        (b"\n".join(b" " * i + b"a:" for i in range(500)), "nested over 64 deep"),
        (b"a: !!python/object/apply:os.system ['echo x']", "could not determine a constructor"),
        (b"a: \xff", "is not valid YAML"),
        (b"a\x00: 1", "is not valid YAML"),
        (b"a: 2001-02-31", "day is out of range"),
        (b"? [1, {a: 2}]\n: 2", "is not valid YAML"),
        (b"a" * 2_000_000, "has 2,000,000 bytes, wanted at most 1,048,576"),
        (b"a: &x [1]\n" + b"b: &y [*x, *x]\n" * 60, "has over 64 aliases"),
    ],
)
def test_what_is_no_yaml_of_settings_is_refused_in_a_sentence(text: bytes, said: str) -> None:
    with pytest.raises(ParamsError) as told:
        parse_yaml(text, "params.yaml")
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_a_repeated_key_of_a_card_is_refused_with_its_line(tmp_path: Path) -> None:
    shutil.copytree("cards", tmp_path / "cards")
    shutil.copy("params.yaml", tmp_path)
    card = tmp_path / "cards" / "models" / "clip-scenes.yaml"
    card.write_text(card.read_text().replace("  batch_size:", "  epochs: 40\n  batch_size:"), encoding="utf-8")
    with pytest.raises(ParamsError, match=r"clip-scenes\.yaml, line \d+ is not valid YAML: the key 'epochs' stands"):
        check_cards(read_params(tmp_path / "params.yaml"))


# ---------------------------------------------------------------- architectures


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"text_cfg": {"width": 128, "heads": 3}}, "text_cfg.heads, 3, does not divide text_cfg.width, 128"),
        ({"text_cfg": {"width": 0, "heads": 3}}, "text_cfg.width is 0, wanted a whole number from 1"),
        ({"text_cfg": {"heads": -4}}, "text_cfg.heads is -4"),
        ({"text_cfg": {"heads": 2.0}}, "text_cfg.heads is 2.0"),
        ({"text_cfg": 5}, "text_cfg should hold keys and values"),
        (
            {"vision_cfg": {"width": 100, "layers": 2}},
            "vision_cfg.head_width, 64, does not divide vision_cfg.width, 100",
        ),
        (
            {"vision_cfg": {"width": 7, "layers": [1] * 4, "head_width": 74}},
            "does not divide 32 times vision_cfg.width",
        ),
        ({"vision_cfg": {"layers": [1, 1]}}, "vision_cfg.layers has 2 numbers, wanted 4"),
        ({"vision_cfg": {"layers": [1, 1, 0, 1]}}, "vision_cfg.layers is 0"),
        ({"vision_cfg": {"image_size": 8}}, "vision_cfg.patch_size, 16, is more than vision_cfg.image_size, 8"),
        ({"embed_dim": 10**30}, "embed_dim is 1000000000000000000000000000000, wanted"),
        ({"vision_cfg": {"ls_init_value": math.nan}}, "vision_cfg.ls_init_value is nan, wanted a finite number"),
        ({"vision_cfg": {"patch_dropout": 1.5}}, "vision_cfg.patch_dropout is 1.5, wanted a share"),
    ],
)
def test_sizes_that_no_open_clip_has_are_refused(part: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="`architecture`: ") as told:
        refuse_impossible_open_clip({"embed_dim": 64} | part)
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"text_config": {"hidden_size": 64, "num_attention_heads": 5}}, "num_attention_heads, 5, does not divide"),
        ({"vision_config": {"hidden_size": 64, "num_attention_heads": 5}}, "num_attention_heads, 5, does not divide"),
        ({"vision_config": {"image_size": 4, "patch_size": 8}}, "patch_size, 8, is more than"),
        ({"vision_config": {"hidden_size": 96}}, "text_config.encoder_hidden_size is 768, but what it reads is"),
        ({"text_config": {"num_hidden_layers": 0}}, "num_hidden_layers is 0"),
        ({"text_config": {"hidden_dropout_prob": 1}}, "hidden_dropout_prob is 1, wanted a share"),
    ],
)
def test_sizes_that_no_blip_has_are_refused(part: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="`architecture`: ") as told:
        refuse_impossible_blip(part)
    assert said in str(told.value)


@pytest.mark.parametrize("pattern", ["", "/etc/*", "../*.tar", "a/../../*", "data/**.tar", "~/x", "a\0b"])
def test_a_wildcard_that_leads_out_or_is_none_is_refused_by_its_key(pattern: str) -> None:
    card = {"adapter": "webdataset", "source": "x", "shards": {"test": pattern}}
    with pytest.raises(ValidationError, match=r"shards\.test|shards"):
        WebDatasetCard.model_validate(card)
    assert WebDatasetCard.model_validate(card | {"shards": {"test": "a/**/b-*.tar"}}).shards
