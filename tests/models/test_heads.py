"""Heads: what they compute, in which mode, and that a folder holds all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import CPU
from twinlens.config.training import HeadsArchitecture
from twinlens.core.errors import DataError
from twinlens.models import heads as module
from twinlens.models.heads import (
    BOTH,
    CAPTION_TO_IMAGE,
    CONFIG,
    IMAGE_TO_CAPTION,
    WEIGHTS,
    Head,
    ProjectionHeads,
    WordsHead,
)

ROWS = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32) * 3
TABLE = torch.cat([torch.zeros(1, 5), torch.randn(8, 5, generator=torch.Generator().manual_seed(0))])


def config(**fields: Any) -> HeadsArchitecture:
    return HeadsArchitecture.model_validate({"dim": 4, "image_hidden": [7], "text_hidden": [8, 9]} | fields)


def pairs(table: torch.Tensor | None = None, **fields: Any) -> ProjectionHeads:
    torch.manual_seed(0)
    return ProjectionHeads(config(**fields), 6, 5, table)


def through(made: ProjectionHeads, side: str = "image", rows: np.ndarray = ROWS, direction: str = BOTH) -> np.ndarray:
    return made.apply_to(rows, direction, side, CPU.device)


@pytest.mark.parametrize("unit_input", [True, False])
@pytest.mark.parametrize("unit_length", [True, False])
def test_a_head_is_its_layers_between_two_scalings(unit_input: bool, unit_length: bool) -> None:
    torch.manual_seed(0)
    head = Head(config(activation="relu", unit_input=unit_input, unit_length=unit_length), 6, [7], 0.0).eval()
    first, last = (layer for layer in head.layers if isinstance(layer, torch.nn.Linear))
    assert (first.weight.shape, last.weight.shape) == ((7, 6), (4, 7))
    x = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True) if unit_input else ROWS
    hidden = np.maximum(x @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
    wanted = hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    if unit_length:
        wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    with torch.no_grad():
        assert np.abs(head(torch.from_numpy(ROWS)).numpy() - wanted).max() < 1e-5


@pytest.mark.parametrize(
    ("activation", "wanted"), [("prelu", [-0.25, 2.0]), ("relu", [0.0, 2.0]), ("gelu", [-0.1587, 1.9545])]
)
def test_the_activation_is_the_one_that_is_named(activation: str, wanted: list[float]) -> None:
    layer = Head(config(activation=activation), 6, [7], 0.0).layers[1]
    assert layer(torch.tensor([-1.0, 2.0])).tolist() == pytest.approx(wanted, abs=1e-4)


def test_dropout_is_on_the_outcome_of_its_side_and_off_when_heads_are_applied() -> None:
    made = pairs(image_dropout=0.5, unit_length=False)
    head = made.head(BOTH, "image").train()
    with torch.no_grad():
        found = head(torch.from_numpy(ROWS))
    assert 0 < int((found == 0).sum()) < found.numel()
    assert (through(made) != 0).all()
    assert np.array_equal(through(made), through(made))
    assert not any(isinstance(part, torch.nn.Dropout) and part.p for part in made.head(BOTH, "text").modules())


def test_batch_norm_stands_before_everything_and_uses_its_statistics_when_applied() -> None:
    made = pairs(batch_norm=True, unit_input=False)
    norm = made.head(BOTH, "image").get_submodule("layers.0")
    assert isinstance(norm, torch.nn.BatchNorm1d)
    assert norm.num_features == 6
    alone = np.concatenate([through(made, rows=ROWS[row : row + 1]) for row in range(10)])
    assert np.abs(through(made) - alone).max() < 1e-6


def test_many_rows_go_through_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pairs()
    whole = through(made)
    monkeypatch.setattr(module, "AT_ONCE", 3)
    assert np.abs(through(made) - whole).max() < 1e-6
    assert whole.shape == (10, 4)
    assert whole.dtype == np.float32
    assert np.linalg.norm(whole, axis=1) == pytest.approx(np.ones(10), abs=1e-6)


# ---------------------------------------------------------------- words


def test_an_lstm_reads_the_words_of_each_text_in_order_and_no_padding() -> None:
    torch.manual_seed(0)
    head = WordsHead(config(text="lstm", lstm_width=11), TABLE).eval()
    texts = torch.tensor([[3, 1, 2, 0, 0], [2, 1, 3, 0, 0], [5, 0, 0, 0, 0], [4, 4, 4, 4, 4]])
    with torch.no_grad():
        found = head(texts)
        for row, text in enumerate(texts):
            words = text[text != 0]
            _, (state, _) = head.lstm(TABLE[words][None])
            assert torch.allclose(found[row], head.head(state[-1])[0], atol=1e-6)
    assert (found[0] - found[1]).abs().max() > 1e-3  # the same words in another order


def test_a_text_of_unknown_words_has_a_vector_too() -> None:
    made = pairs(TABLE, text="lstm", lstm_width=11)
    found = through(made, "text", np.array([[0, 0, 0], [1, 2, 0]]))
    assert np.isfinite(found).all()
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1], abs=1e-6)


def test_the_table_is_the_towers_and_neither_trained_nor_written(tmp_path: Path) -> None:
    made = pairs(TABLE, text="lstm", lstm_width=11)
    assert not any("table" in name for name in made.state_dict())
    assert all(parameter is not TABLE for parameter in made.parameters())
    made.write(tmp_path)
    words = np.array([[1, 2, 0]])
    assert np.array_equal(through(ProjectionHeads.read(tmp_path, TABLE), "text", words), through(made, "text", words))


# ---------------------------------------------------------------- directions and folders


def test_one_pair_for_both_directions_or_one_each() -> None:
    assert pairs().directions == [BOTH]
    each = pairs(directions="each")
    assert each.directions == [IMAGE_TO_CAPTION, CAPTION_TO_IMAGE]
    there, back = (through(each, direction=direction) for direction in each.directions)
    assert np.abs(there - back).max() > 0.01
    one, two = (sum(p.numel() for p in made.parameters()) for made in (pairs(), each))
    assert two == 2 * one


@pytest.mark.parametrize("fields", [{}, {"directions": "each", "batch_norm": True, "unit_length": False}])
def test_a_folder_gives_the_heads_that_were_written(fields: dict[str, Any], tmp_path: Path) -> None:
    made = pairs(**fields)
    made.train()
    with torch.no_grad():
        made.head(made.directions[0], "image")(torch.from_numpy(ROWS))  # statistics belong to it
    made.write(tmp_path)
    found = ProjectionHeads.read(tmp_path)
    assert (found.config, found.widths) == (made.config, {"image": 6, "text": 5})
    for direction in made.directions:
        assert np.array_equal(through(found, direction=direction), through(made, direction=direction))
    again = tmp_path / "again"
    found.write(again)
    assert all((again / name).read_bytes() == (tmp_path / name).read_bytes() for name in (CONFIG, WEIGHTS))


def test_rows_of_another_width_than_the_heads_were_trained_on_are_refused() -> None:
    with pytest.raises(DataError, match=r"text tower's vectors have 6 dimensions, its head was trained on 5: `dvc"):
        through(pairs(), "text")


def damaged(folder: Path, how: str) -> None:
    if how == "no weights":
        (folder / WEIGHTS).unlink()
    elif how == "cut short":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:50])
    elif how == "no JSON":
        (folder / CONFIG).write_text("{")
    else:
        content = json.loads((folder / CONFIG).read_text())
        content["heads"]["dim"] = 99 if how == "another size" else -1
        (folder / CONFIG).write_text(json.dumps(content))


@pytest.mark.parametrize("how", ["no weights", "cut short", "no JSON", "another size", "no size"])
def test_a_damaged_folder_is_refused_and_says_what_to_run(how: str, tmp_path: Path) -> None:
    pairs().write(tmp_path)
    damaged(tmp_path, how)
    with pytest.raises(DataError, match=r"(?s)holds no heads that can be read .*`dvc repro -f train`"):
        ProjectionHeads.read(tmp_path)
