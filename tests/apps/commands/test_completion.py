"""What the shell is offered."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.apps.commands.conftest import process
from tests.indexing.conftest import POOL
from twinlens import Searcher
from twinlens.apps.commands.completion import MOST, make_card_completer


def offered(line: str) -> list[str]:
    words = line.split(" ")
    done = process(_TWINLENS_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.usefixtures("root")
def test_names_of_cards_and_ids_of_pictures_are_offered() -> None:
    assert offered("twinlens search --model clip-s") == ["clip-scenes"]
    assert offered("twinlens models --dataset coco-v") == ["coco-val"]
    assert offered("twinlens serve --model clip-s") == ["clip-scenes"]
    assert offered("twinlens serve --dataset coco-v") == ["coco-val"]
    assert "git" in offered("twinlens search --captioner g")
    assert offered("twinlens search --mode ex") == ["exemplar"]
    names = Searcher().index.ids
    assert POOL <= MOST
    assert offered("twinlens search --like test-0000") == [name for name in names if name.startswith("test-0000")]
    assert offered("twinlens show --model apart test-0001") == [name for name in names if name.startswith("test-0001")]
    assert offered("twinlens show --model vit-b-32 test-0001") == []  # it has no index


def test_where_there_are_no_params_nothing_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_card_completer("models")("") == []
    Path("cards/models").mkdir(parents=True)
    for name in ("b.yaml", "ab.yaml", "a.yaml", "README.md"):
        (Path("cards/models") / name).write_text("{: not yaml")  # a name needs no look inside
    assert make_card_completer("models")("a") == ["a", "ab"]
    assert make_card_completer("datasets")("a") == []
