"""The keys by which finished parts are found cover all of the project's code that decides what is in a part.

A part is found again by a fingerprint of what decides it, code included. Were a module missing there, a stage would
run again after a change and take the old parts all the same. So imports are walked here as they are for the stages.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tests.pipeline.test_structure import PLUMBING, reached_from
from twinlens.indexing import build
from twinlens.inference import caption, classify
from twinlens.inference import tower as embedding
from twinlens.models.encoders import word_table
from twinlens.training import captioning, data, dual_encoder, projection_heads

ROOT = Path("twinlens")
FAMILIES = sorted(embedding.PACKAGES)

# What a module that makes parts imports, though it decides nothing that is in them; beside the plumbing of the stages.
NO_PART_OF = {
    "models/captioners/__init__.py": "holds no code",
    "models/classifiers/__init__.py": "chooses a module by the card's family, which is in the key",
    "models/encoders/__init__.py": "chooses a module by the card's family, which is in the key",
    "models/weights.py": "finds files, whose digests are in the key",
    "indexing/__init__.py": "holds no code",
    "training/__init__.py": "holds no code",
}
ONLY_FOR = {  # the same, but for one kind of part only
    "heads": {
        "inference/features.py": "hands over vectors that have keys of their own, which are in this one",
        "inference/loop.py": "decides those vectors",
        "inference/probe.py": "decides their probes",
        "inference/tower.py": "decides those vectors' keys",
        "core/probes.py": "decides their probes",
    },
    "pixels": {"core/device.py": "of the training key, which stands in the same module"},
    "embed": {"core/device.py": "chooses device and numbers, whose names are in the key"},
    "captions": {"core/device.py": "chooses device and numbers, whose names are in the key"},
    "classify": {
        "datasets/__init__.py": "of the list of ImageNet's classes, of which the chosen are in the key",
        "datasets/adapters/base.py": "the same",
        "datasets/classes/__init__.py": "the same",
        "datasets/filter.py": "of the types that datasets/base.py names",
        "core/device.py": "chooses device and numbers, whose names are in the key",
    },
    "index": {
        "models/encoders/base.py": "of the identity of weights, which is in the key",
        "indexing/manifest.py": "names and digests files, which are in the key",
        "images/transforms.py": "of encoders/base.py",
        "core/device.py": "of encoders/base.py",
        "models/checkpoints.py": "of the identity of weights, which is in the key",
    },
}


def code(*modules: str) -> set[str]:
    return set(modules)


KEYS = {
    **{
        f"towers of {family}": (
            ["training/dual_encoder.py", f"models/encoders/{family}.py"],
            code(*data.CODE, *dual_encoder.code_of(family)),
        )
        for family in ("open_clip", "transformers")
    },
    "heads": (["training/projection_heads.py"], code(*data.CODE, *projection_heads.CODE)),
    "captioner": (["training/captioning.py"], code(*data.CODE, *captioning.CODE)),
    "pixels": (["training/data.py"], code(*data.STORE_CODE)),
    **{
        f"embed by {family}": (["inference/tower.py", f"models/encoders/{family}.py"], code(*embedding.code_of(family)))
        for family in FAMILIES
    },
    "captions": (["inference/caption.py", "models/captioners/transformers.py"], code(*caption.CODE)),
    "classify": (["inference/classify.py"], code(*classify.CODE)),
    "words": (["models/encoders/word_table.py"], code(*word_table.CODE)),
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
        spared |= reached(["models/encoders/open_clip.py", "models/encoders/transformers.py"]) - reached(roots[1:])
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


@pytest.mark.parametrize("module", ["optim", "muon", "threads", "loop"])
def test_whatever_is_trained_is_trained_anew_when_the_optimiser_changes(module: str) -> None:
    for name in ("towers of open_clip", "towers of transformers", "heads", "captioner"):
        assert f"training/{module}.py" in KEYS[name][1]
