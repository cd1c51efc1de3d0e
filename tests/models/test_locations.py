"""Weights are located without importing the library that reads them; what only the library knows is asked once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from twinlens.config.models import OpenClipTower
from twinlens.core.errors import ParamsError
from twinlens.models import encoders, locations
from twinlens.models.locations import recall_answer

SLOW = ("open_clip", "timm", "torchvision", "transformers", "sentence_transformers")
LOCATE_ALL = f"""
import sys
from pathlib import Path
from twinlens.config.models import (
    OpenClipTower,
    TimmTower,
    TorchvisionTower,
    TransformersTower,
)
from twinlens.config.sentence_models import SentenceTransformersTower
from twinlens.models import encoders
file, folder = sys.argv[1:]
for tower in (OpenClipTower(open_clip="ViT-B-32", checkpoint=file), TimmTower(timm="test_vit", checkpoint=file),
              TorchvisionTower(torchvision="fasterrcnn_resnet50_fpn", checkpoint=file),
              TransformersTower(transformers="a/b", checkpoint=folder),
              SentenceTransformersTower(sentence_transformers="a/b", checkpoint=folder)):
    encoders.identify(tower, encoders.locate(tower))
print(*(name for name in {SLOW} if name in sys.modules))
"""


@pytest.mark.slow
def test_once_asked_no_library_is_imported(tmp_path: Path) -> None:
    file, folder = tmp_path / "a.safetensors", tmp_path / "folder"
    file.write_bytes(b"weights")
    folder.mkdir()
    (folder / "modules.json").write_text("[]")
    command = [sys.executable, "-c", LOCATE_ALL, str(file), str(folder)]
    first, second = (
        subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert "open_clip" in first
    assert second == "\n"


def test_an_answer_is_asked_for_once_and_anew_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def ask() -> dict[str, int]:
        asked.append(1)
        return {"n": len(asked)}

    assert recall_answer("timm", ["a", None], ask) == recall_answer("timm", ["a", None], ask) == {"n": 1}
    assert recall_answer("timm", ["b", None], ask) == {"n": 2}
    monkeypatch.setattr(locations, "version", lambda _: "another")
    assert recall_answer("timm", ["a", None], ask) == {"n": 3}


def test_a_refusal_is_not_kept() -> None:
    for _ in range(2):
        with pytest.raises(ParamsError, match="open_clip has no 'ViT-B-23'"):
            encoders.locate(OpenClipTower(open_clip="ViT-B-23", pretrained="openai"))
