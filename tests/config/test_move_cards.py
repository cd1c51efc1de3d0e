"""tools/move_cards.py: an old params.yaml becomes settings and a file a card."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workspace import ROOT

TOOL = ROOT / "tools/move_cards.py"
OLD = """\
# What to run.
model: a

filter:
  require_label: false
  # of every row
  require_caption: true

# ------------------------------------------------------------------ datasets
# `pool`: the split.
datasets:
  # Drawn.
  scenes:
    adapter: scenes
    licence: Apache-2.0
    queries:
      adapter: coco
      licence: CC-BY-4.0
      source:   # a folder
    note: the first line
      and the second

# -------------------------------------------------------------------- models
models:
  a:
    # what it sees
    image: {timm: x}
    licence: MIT

  # The next.
  b: {image: {timm: y}}

# ------------------------------------------------------------------- measures
# How often.
evaluate:
  ks:
  - 1
"""
moved: dict[str, Any] = runpy.run_path(str(TOOL))


def about(card: Any) -> Any:
    """What a card of the old form is in the new one."""
    if not isinstance(card, dict):
        return card
    inside = {key: about(value) for key, value in card.items()}
    remarks = {key: inside.pop(key) for key in ("licence", "note") if key in inside}
    return inside | ({"about": remarks} if remarks else {})


def test_settings_stay_with_their_comments_and_cards_get_theirs() -> None:
    left, cards, above = moved["move"](OLD)
    assert yaml.safe_load(left) == {
        key: value for key, value in yaml.safe_load(OLD).items() if key not in ("datasets", "models")
    }
    assert "  # of every row\n  require_caption: true\n" in left
    assert "# -- measures" in left.replace("-----------------------------------------------------------------", "")
    assert "datasets" not in left
    assert "# How often.\nevaluate:" in left
    assert list(cards) == ["datasets/scenes", "models/a", "models/b"]
    assert (
        cards["datasets/scenes"]
        == """\
# Drawn.
adapter: scenes
about:
  licence: Apache-2.0
  note: the first line
    and the second
queries:
  adapter: coco
  about:
    licence: CC-BY-4.0
  source:   # a folder
"""
    )
    assert cards["models/a"] == "# what it sees\nimage: {timm: x}\nabout:\n  licence: MIT\n"
    assert cards["models/b"] == "# The next.\nimage:\n  timm: y\n"
    assert "# `pool`: the split." in above


def test_every_card_says_what_it_said() -> None:
    raw = yaml.safe_load(OLD)
    for path, text in moved["move"](OLD)[1].items():
        kind, name = path.split("/")
        assert yaml.safe_load(text) == about(raw[kind][name])


def test_it_writes_files_and_never_over_one(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(OLD)
    command = [sys.executable, str(TOOL), str(tmp_path / "params.yaml")]
    done = subprocess.run(command, text=True, capture_output=True, check=True)
    assert done.stdout.startswith(f"3 cards are in {tmp_path}/cards now")
    assert (tmp_path / "cards/models/b.yaml").exists()
    again = subprocess.run(command, text=True, capture_output=True, check=False)
    assert (again.returncode, "there is nothing to move" in again.stderr) == (1, True)
    (tmp_path / "params.yaml").write_text(OLD)
    over = subprocess.run(command, text=True, capture_output=True, check=False)
    assert "not written over" in over.stderr
    assert (tmp_path / "params.yaml").read_text() == OLD


def test_nothing_to_move_is_said(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("model: a\n")
    with pytest.raises(SystemExit, match="holds no cards"):
        moved["main"](tmp_path / "params.yaml")
