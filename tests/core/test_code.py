"""The code in the keys of finished parts: found by imports, and deaf to words."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from twinlens.core.code import code_digest, decides, find_reachable, outline

# The modules behind each kind of part, and code that must be in its key: a change of it changes what the part holds.
KEYS = {
    "towers": ("twinlens.training.dual_encoder", "training/dual_encoder training/losses models/encoders/transformers"),
    "heads": ("twinlens.training.projection_heads", "training/projection_heads training/losses models/heads"),
    "captioner": ("twinlens.training.captioning", "training/captioning training/tokenizer models/image_processor"),
    "pixels": ("twinlens.training.data", "images/transforms core/shards"),
    "vectors": ("twinlens.inference.tower", "inference/loop inference/probe models/encoders/base images/transforms"),
    "captions": ("twinlens.inference.caption", "models/captioners/transformers images/transforms core/shards"),
    "classes": ("twinlens.inference.classify", "models/classifiers/base images/decode images/transforms"),
    "words": ("twinlens.models.encoders.word_table", "models/encoders/word_table"),
    "index": ("twinlens.indexing.build", "indexing/postings retrieval/bm25 retrieval/tokenize images/thumbnails"),
}
OPTIMISER = "training/data training/loop training/muon training/optim training/threads core/device images/transforms"


def covered(*modules: str) -> set[str]:
    return {file.with_suffix("").as_posix() for file in find_reachable(*modules) if decides(file)}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_covers_the_code_that_decides_its_parts(kind: str) -> None:
    module, needed = KEYS[kind]
    assert set(needed.split()) <= covered(module)


@pytest.mark.parametrize("kind", ["towers", "heads", "captioner"])
def test_whatever_is_trained_is_trained_anew_when_the_optimiser_changes(kind: str) -> None:
    assert set(OPTIMISER.split()) <= covered(KEYS[kind][0])


@pytest.mark.parametrize("kind", KEYS)
def test_no_key_covers_settings_messages_or_front_doors(kind: str) -> None:
    rooms = {name.split("/")[0] for name in covered(KEYS[kind][0])}
    assert not rooms & {"config", "apps", "report", "evaluation"}
    assert not {"core/errors", "core/progress", "core/costs", "core/scratch"} & covered(KEYS[kind][0])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of four modules: `maker` imports `helper`, lazily, and `core.words`; nobody imports `stranger`."""
    root = tmp_path / "little"
    files = {
        "__init__.py": "",
        "work/__init__.py": '"""Work."""',
        "work/maker.py": """
            from little.core.words import say

            def make(x):
                from little.work import helper
                return helper.double(x)
        """,
        "work/helper.py": """
            def double(x):
                return 2 * x
        """,
        "work/stranger.py": "A = 1",
        "core/__init__.py": "",
        "core/words.py": "def say(): pass",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(dedent(text), encoding="utf-8")
    return root


def test_imports_are_followed_at_any_depth_with_the_packages_around(package: Path) -> None:
    found = {path.as_posix() for path in find_reachable("little.work.maker", root=package)}
    assert found == {
        "work/__init__.py",
        "work/maker.py",
        "work/helper.py",
        "core/__init__.py",
        "core/words.py",
    }


def test_a_module_that_is_not_there_is_refused(package: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such"):
        code_digest("little.work.no_such", root=package)


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        ("work/helper.py", "def double(x):\n    return x + x\n", True),
        ("work/helper.py", "def double(x):\n    # the same\n    '''Twice.'''\n    return 2 * x\n", False),
        ("work/stranger.py", "A = 2\n", False),
        ("core/words.py", "def say(): print('other words')\n", False),
    ],
)
def test_the_digest_changes_with_what_the_code_does(package: Path, file: str, text: str, changes: bool) -> None:
    before = code_digest("little.work.maker", root=package)
    assert code_digest("little.work.maker", root=package) == before
    (package / file).write_text(text, encoding="utf-8")
    assert (code_digest("little.work.maker", root=package) != before) == changes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("raise ValueError(f'{x} is bad')", "raise ValueError('not good')"),
        ("log.info('so many: %d', n)", "log.warning('%d of %d', n, m)"),
        ("assert x, 'why'", "assert x"),
        ("def f():\n    'Says what.'\n    return 1", "def f():\n    return 1  # plainly"),
    ],
)
def test_words_are_no_part_of_an_outline(one: str, other: str) -> None:
    assert outline(f"{one}\ny = 1") == outline(f"{other}\n\ny = 1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("raise ValueError('a')", "raise TypeError('a')"),
        ("x = 1", "x = 2"),
        ("x = 1", "x = 1.0"),
        ("x = '1'", "x = 1"),
        ("x = f'{a:.3f}'", "x = f'{a:.4f}'"),
        ("f(log.level)", "f(log.name)"),
        ("assert x", "assert y"),
        ("x = [1, 2]", "x = [2, 1]"),
        ("if a:\n    b()", "if a:\n    c()"),
        ("def f(x, /): pass", "def f(x): pass"),
    ],
)
def test_what_code_does_is(one: str, other: str) -> None:
    assert outline(one) != outline(other)
