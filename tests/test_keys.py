"""The keys by which finished parts are found cover all of the project's code that decides what is in a part.

A part is found again by a fingerprint of what decides it, code included. Were a module missing there, a stage would
run again after a change and take the old parts all the same. So imports are walked here as they are for the stages.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tests.test_structure import PLUMBING, reached_from
from twinlens import classifying
from twinlens.captioners import caption
from twinlens.encoders import towers as embedding
from twinlens.encoders import word_table
from twinlens.indexing import build
from twinlens.training import captioning, data, heads, towers

ROOT = Path("twinlens")
FAMILIES = sorted(embedding.PACKAGES)

# What a module that makes parts imports, though it decides nothing that is in them; beside the plumbing of the stages.
NO_PART_OF = {
    "captioners/__init__.py": "holds no code",
    "classifiers/__init__.py": "chooses a module by the card's family, which is in the key",
    "encoders/__init__.py": "chooses a module by the card's family, which is in the key",
    "encoders/weights.py": "finds files, whose digests are in the key",
    "indexing/__init__.py": "holds no code",
    "training/__init__.py": "holds no code",
}
ONLY_FOR = {  # the same, but for one kind of part only
    "heads": {
        "encoders/features.py": "hands over vectors that have keys of their own, which are in this one",
        "encoders/embed.py": "decides those vectors",
        "encoders/probe.py": "decides their probes",
        "encoders/towers.py": "decides those vectors' keys",
        "probes.py": "decides their probes",
    },
    "pixels": {"placement.py": "of the training key, which stands in the same module"},
    "embed": {"placement.py": "chooses device and numbers, whose names are in the key"},
    "captions": {"placement.py": "chooses device and numbers, whose names are in the key"},
    "classify": {
        "datasets/__init__.py": "of the list of ImageNet's classes, of which the chosen are in the key",
        "datasets/base.py": "the same",
        "datasets/classes/__init__.py": "the same",
        "filtering.py": "of the types that datasets/base.py names",
        "placement.py": "chooses device and numbers, whose names are in the key",
    },
    "index": {
        "encoders/base.py": "of the identity of weights, which is in the key",
        "indexing/manifest.py": "names and digests files, which are in the key",
        "pixels.py": "of encoders/base.py",
        "placement.py": "of encoders/base.py",
        "trained.py": "of the identity of weights, which is in the key",
    },
}


def code(*modules: str) -> set[str]:
    return set(modules)


KEYS = {
    **{
        f"towers of {family}": (
            ["training/towers.py", f"encoders/{family}.py"],
            code(*data.CODE, *towers.code_of(family)),
        )
        for family in ("open_clip", "transformers")
    },
    "heads": (["training/heads.py"], code(*data.CODE, *heads.CODE)),
    "captioner": (["training/captioning.py"], code(*data.CODE, *captioning.CODE)),
    "pixels": (["training/data.py"], code(*data.STORE_CODE)),
    **{
        f"embed by {family}": (["encoders/towers.py", f"encoders/{family}.py"], code(*embedding.code_of(family)))
        for family in FAMILIES
    },
    "captions": (["captioners/caption.py", "captioners/transformers.py"], code(*caption.CODE)),
    "classify": (["classifying.py"], code(*classifying.CODE)),
    "words": (["encoders/word_table.py"], code(*word_table.CODE)),
    "index": (["indexing/build.py"], code(*build.CODE)),
}


@cache
def reached_from_one(root: str) -> set[Path]:
    """What one module imports; found once, for it takes tenths of a second and is asked for by many cases."""
    return reached_from(ROOT / root)


def reached(roots: list[str]) -> set[str]:
    """What some modules import, directly or not, the plumbing left out."""
    found = set().union(*(reached_from_one(root) for root in roots))
    return {path.relative_to(ROOT).as_posix() for path in found if path.as_posix() not in PLUMBING}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_covers_all_code_that_decides_its_parts(name: str) -> None:
    roots, covered = KEYS[name]
    spared = set(NO_PART_OF) | set(ONLY_FOR.get(name.split(maxsplit=1)[0], {}))
    if name.startswith("towers"):  # the other family's modules are imported where a card asks for them
        spared |= reached(["encoders/open_clip.py", "encoders/transformers.py"]) - reached(roots[1:])
    missing = reached(roots) - covered - spared
    assert not missing, f"{name}: add to its CODE: {sorted(missing)}"


@pytest.mark.parametrize("name", KEYS)
def test_a_key_names_no_code_that_is_not_reached(name: str) -> None:
    roots, covered = KEYS[name]
    assert covered <= reached(roots)


def test_what_is_spared_is_reached_and_not_covered_all_the_same() -> None:
    everything = set().union(*(reached(roots) for roots, _ in KEYS.values()))
    assert set(NO_PART_OF) <= everything
    for kind, spared in ONLY_FOR.items():
        roots, covered = next(KEYS[name] for name in KEYS if name.split()[0] == kind)
        assert set(spared) <= reached(roots)
        assert not set(spared) & covered


@pytest.mark.parametrize("module", ["schedule", "muon", "threads", "loop"])
def test_whatever_is_trained_is_trained_anew_when_the_optimiser_changes(module: str) -> None:
    for name in ("towers of open_clip", "towers of transformers", "heads", "captioner"):
        assert f"training/{module}.py" in KEYS[name][1]
