"""Where the weights of a library's towers lie, found without importing the library, which takes seconds.

What only the library knows (whether it has such a model, and where its weights are published) is asked once and kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from twinlens.core.code import code_digest
from twinlens.core.scratch import Scratch, fingerprint

ANSWER = "answer.json"


def recall_answer(library: str, question: list[str | None], ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Give a library's answer to a question, asked once for each of its versions; errors are not kept.

    Args:
        library: the name of its distribution.
        question: what is asked: a card's names.
        ask: imports the library and asks it; the answer is JSON-able.
    """
    key = fingerprint(library=library, version=version(library), question=question, code=code_digest(__name__))
    with Scratch("libraries", key) as scratch:
        if not scratch.has(ANSWER):
            text = json.dumps(ask())
            scratch.put(ANSWER, lambda path: _write(path, text))
        answer: dict[str, Any] = json.loads(scratch.path(ANSWER).read_text(encoding="utf-8"))
    return answer


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
