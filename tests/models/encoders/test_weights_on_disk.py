"""Weights on the disk: checked where the card says, identified by what they are, refused where parts were made up."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hub import COMMIT, point_at, serving_hub
from tests.tiny import tokenizer
from twinlens.config.models import TimmTower
from twinlens.core.errors import DataError, FetchError
from twinlens.models.weights import (
    fetch_weights_folder,
    find_local_checkpoint,
    identify_weights,
    refuse_gaps,
    refuse_wordless,
)


def card(checkpoint: Path | str | None, **fields: Any) -> TimmTower:
    return TimmTower(timm="test_vit", checkpoint=None if checkpoint is None else str(checkpoint), **fields)


def test_a_checkpoint_is_taken_where_the_card_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"weights")
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    assert find_local_checkpoint(card(None)) is None
    assert find_local_checkpoint(card(file, sha256=hashlib.sha256(b"weights").hexdigest())) == file
    assert find_local_checkpoint(card("$SOMEWHERE/mine.safetensors")) == file
    assert find_local_checkpoint(card("${SOMEWHERE}")) == tmp_path


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE_AT_ALL", raising=False)
    with pytest.raises(FetchError, match=r"checkpoint .*gone.bin is not there .looked for .*gone.bin"):
        find_local_checkpoint(card(tmp_path / "gone.bin"))
    with pytest.raises(FetchError, match="the environment variable NOWHERE_AT_ALL is not set"):
        find_local_checkpoint(card("$NOWHERE_AT_ALL/mine.bin"))


@pytest.mark.parametrize("folder", [True, False])
def test_a_checkpoint_with_another_digest_is_refused(folder: bool, tmp_path: Path) -> None:
    file = tmp_path / "mine.bin"
    file.write_bytes(b"other weights")
    with pytest.raises(DataError, match=f"has SHA-256 .*, the card says {'0' * 64}"):
        find_local_checkpoint(card(tmp_path if folder else file, sha256="0" * 64))


# ---------------------------------------------------------------- identity


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_hub_copy_is_its_commit_in_any_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_hub({"someone/tiny": {"config.json": b"{}"}}) as hub:
        point_at(hub.url, tmp_path / "cache", monkeypatch)
        folder = fetch_weights_folder("someone/tiny", None, ["config.json"])
    assert identify_weights(folder) == {"commit": COMMIT, "file": ""}
    assert identify_weights(folder / "config.json") == {"commit": COMMIT, "file": "config.json"}
    moved = shutil.copytree(tmp_path / "cache", tmp_path / "elsewhere") / folder.relative_to(tmp_path / "cache")
    assert identify_weights(moved) == identify_weights(folder)


def test_a_file_or_a_folder_is_its_content_wherever_it_lies(tmp_path: Path) -> None:
    content = {"model.bin": b"weights", "1_Pooling/config.json": b"{}"}
    here, there = write(tmp_path / "here", content), write(tmp_path / ".hidden" / "there", content)
    assert identify_weights(here) == identify_weights(there)
    assert identify_weights(here / "model.bin") == identify_weights(there / "model.bin")
    assert identify_weights(here)["sha256"]["1_Pooling/config.json"] == hashlib.sha256(b"{}").hexdigest()


CHANGES: dict[str, Callable[[Path], object]] = {
    "another content": lambda folder: (folder / "model.bin").write_bytes(b"Weights"),
    "another name": lambda folder: (folder / "model.bin").rename(folder / "model2.bin"),
    "one file more": lambda folder: (folder / "vocab.txt").touch(),
    "one file less": lambda folder: (folder / "1_Pooling/config.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_differs_is_another(change: str, tmp_path: Path) -> None:
    folder = write(tmp_path, {"model.bin": b"weights", "1_Pooling/config.json": b"{}"})
    before = identify_weights(folder)
    CHANGES[change](folder)
    assert identify_weights(folder) != before


def test_notes_of_whoever_fetched_the_folder_do_not_count(tmp_path: Path) -> None:
    folder = write(tmp_path, {"model.bin": b"weights"})
    before = identify_weights(folder)
    write(folder, {".gitattributes": b"*", ".cache/huggingface/model.bin.lock": b"", "1_Pooling/.DS_Store": b"x"})
    assert identify_weights(folder) == before


# ---------------------------------------------------------------- what libraries fill in


class Model(torch.nn.Module):
    """A matrix, a bias, a pooler and a single number."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.pooler = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.temperature = torch.nn.Parameter(torch.ones(()))


@pytest.mark.parametrize(
    ("missing", "unused", "message"),
    [
        (["dense.weight"], None, r"lacks 1 of the model's 4 parameters, the first is dense\.weight"),
        (["pooler.weight", "dense.weight"], None, r"lacks 2 .* first is dense\.weight"),
        (["pooler.weight", "dense.weight"], "pooler.", r"lacks 1 .* first is dense\.weight"),
        (["pooler.weight"], "pooler.", None),
        (["dense.bias", "dense.weight"], None, r"lacks 2 .* first is dense\.weight"),
        (
            ["dense.bias"],
            None,
            r"lacks 1 .* first is dense\.bias; it holds 1 .* such as d\.bias:",
        ),
        (["position_ids", "temperature"], None, None),  # a buffer; a single number
        ([], None, None),
    ],
)
def test_a_part_that_was_made_up_is_refused(missing: list[str], unused: str | None, message: str | None) -> None:
    if message is None:
        refuse_gaps(Model(), {"missing_keys": set(missing), "unexpected_keys": {"d.bias"}}, Path("there"), unused)
        return
    with pytest.raises(DataError, match=message):
        refuse_gaps(Model(), {"missing_keys": set(missing), "unexpected_keys": {"d.bias"}}, Path("there"), unused)


def test_a_tokenizer_that_knows_no_word_is_refused() -> None:
    refuse_wordless(tokenizer(), Path("there"))
    with pytest.raises(DataError, match="there lacks the tokenizer's files"):
        refuse_wordless(tokenizer([]), Path("there"))
