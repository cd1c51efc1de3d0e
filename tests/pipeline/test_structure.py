"""The shape of the project, held by walking its imports: rooms, their order, and what each stage depends on."""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

from tests.conftest import ALONE
from twinlens.core.code import decides, find_reachable, list_imports, outline

PIPELINE = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
PACKAGE = Path("twinlens")

# The rooms, from the ground up: a room imports those above it in this list, never one below.
ROOMS = (
    "core",
    "config",
    "engines",
    "images",
    "datasets",
    "tasks",
    "models",
    "inference",
    "training",
    "retrieval",
    "evaluation",
    "indexing",
    "report",
    "apps",
)
# Libraries that take seconds to import, and who may: every other module can be imported at once.
SLOW = {"torch", "open_clip", "timm", "transformers", "sentence_transformers", "torchvision", "torchmetrics"}
MAY_BE_SLOW = (
    *("models", "inference", "training"),
    *(
        "core/device.py",
        "images/transforms.py",
        "retrieval/exact.py",
        "retrieval/item_blocks.py",
        "retrieval/key_lists.py",
        "retrieval/maxsim.py",
        "retrieval/on_device.py",
        "retrieval/selection.py",
        "evaluation/referee.py",
    ),
    "indexing/query_encoder.py",
)


@lru_cache
def imports_of(path: Path) -> frozenset[str]:
    return frozenset(list_imports(path.read_text(encoding="utf-8")))


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str | None:
    """The room of a file of the package; None for the package's own front door."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def rooms_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("twinlens.")} & set(ROOMS)


def reached(script: Path) -> set[Path]:
    """Every file of the package that a stage's script imports, directly or not, relative to the repository."""
    named = {name for name in imports_of(script) if name.startswith("twinlens.")}
    there = {name for name in named if (base := Path(*name.split("."))).with_suffix(".py").exists() or base.is_dir()}
    return {PACKAGE / file for file in find_reachable(*there)}


def does(path: Path) -> bool:
    """Whether a file holds more than a docstring."""
    return outline(path.read_text(encoding="utf-8")) != outline("")


def loads_by_name(package: Path) -> bool:
    """Whether a package imports its modules by a name that a card gives, which no walk can see."""
    return "import_module" in (package / "__init__.py").read_text(encoding="utf-8")


# ------------------------------------------------------------------- rooms


def test_the_root_holds_rooms_and_nothing_else() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ROOMS)
    assert len(ROOMS) <= 14
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} <= {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_in_a_sentence_what_it_is_for(room: str) -> None:
    said = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))
    assert said
    assert "\n" not in said.split("\n\n")[0]
    assert said.split("\n\n")[0].endswith(".")


def test_imports_point_down_only() -> None:
    height = {room: i for i, room in enumerate(ROOMS)}
    upward = [
        f"{path} imports {other}"
        for path in modules()
        if (room := room_of(path)) is not None
        for other in rooms_imported(path)
        if height[other] > height[room]
    ]
    assert not upward


def test_the_plan_can_be_drawn() -> None:
    arrows = {(room, other) for path in modules() if (room := room_of(path)) for other in rooms_imported(path) - {room}}
    assert len(arrows) <= 90


def test_the_tests_have_the_same_rooms() -> None:
    folders = {p.name for p in Path("tests").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders <= set(ROOMS) | {"pipeline", "cases", "preloaded"}
    assert not list(Path("tests").glob("test_*.py"))


def test_only_some_modules_import_what_takes_seconds() -> None:
    slow = [
        str(path)
        for path in modules()
        if {name.split(".")[0] for name in imports_of(path)} & SLOW
        and not path.relative_to(PACKAGE).as_posix().startswith(MAY_BE_SLOW)
    ]
    assert not slow


@pytest.mark.parametrize("room", ["config", "datasets", "tasks", "evaluation"])
def test_rooms_of_plain_data_reach_no_model(room: str) -> None:
    files = (path for path in (PACKAGE / room).rglob("*.py") if path.name != "referee.py")
    for path in files:
        module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        assert not {file.parts[0] for file in find_reachable(module)} & {"models", "inference", "training"}, path


def test_stages_import_no_stage_and_the_library_imports_neither_stages_nor_tests() -> None:
    for path in Path("stages").glob("*.py"):
        assert {m for m in imports_of(path) if m.startswith("stages.")} <= {
            "stages.INTERRUPTED",
            "stages.PARENT",
            "stages.runner",
            "stages.runner.run_stage",
        }
    for path in modules():
        assert not [m for m in imports_of(path) if m.split(".")[0] in ("stages", "tests", "benchmarks", "tools")]


def test_files_stay_small() -> None:
    long = {
        str(path): lines
        for path in [*modules(), *Path("stages").glob("*.py"), *Path("tools").glob("*.py")]
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 350
    }
    assert not long


# ------------------------------------------------------------------ stages


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_depends_on_all_the_code_that_decides_its_output(stage: str) -> None:
    deps = [Path(dep) for dep in PIPELINE[stage]["deps"]]
    needed = {path for path in reached(Path(f"stages/{stage}.py")) if decides(path.relative_to(PACKAGE)) and does(path)}
    needed |= {path.parent for path in needed if path.name == "__init__.py" and loads_by_name(path.parent)}
    uncovered = {p for p in needed if not any(dep == p or dep in p.parents for dep in deps)}
    assert not uncovered, f"{stage}: add to its deps in dvc.yaml: {sorted(map(str, uncovered))}"


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_depends_on_no_code_that_it_does_not_reach(stage: str) -> None:
    found = reached(Path(f"stages/{stage}.py")) | {Path(f"stages/{stage}.py")}
    code = [Path(dep) for dep in PIPELINE[stage]["deps"] if dep.startswith(("twinlens", "stages"))]
    idle = [dep for dep in code if not any(dep == p or dep in p.parents for p in found)]
    assert not idle


@pytest.mark.parametrize("stage", sorted(set(PIPELINE) - {"validate", "watch", "tasks"}))
def test_a_stage_depends_on_no_card_but_as_validate_writes_it(stage: str) -> None:
    """In the file there are comments, `about:` and bases, of which no stage but the guard should hear."""
    assert not [dep for dep in PIPELINE[stage]["deps"] if dep.startswith("cards")]
    written = [key for param in PIPELINE[stage].get("params", []) if isinstance(param, dict) for key in param]
    assert all(key.startswith("data/cards/") for key in written)
    assert written or any(dep.startswith("data/cards/") for dep in PIPELINE[stage]["deps"])


def test_the_values_of_each_card_in_use_stand_in_the_lock_once() -> None:
    named = [
        key
        for stage in PIPELINE.values()
        for param in stage.get("params", [])
        if isinstance(param, dict)
        for key in param
    ]
    cards = sorted(key.split("/")[2] for key in named if key.startswith("data/cards/"))
    assert cards == ["captioners", "datasets", "models"]


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_has_a_description_and_the_name_of_its_script(stage: str) -> None:
    assert PIPELINE[stage]["desc"]
    assert PIPELINE[stage]["cmd"].startswith(f"python -m stages.{stage}")
    assert Path(f"stages/{stage}.py").exists()


def test_every_stage_script_is_in_the_pipeline_in_order_of_flow() -> None:
    scripts = {path.stem for path in Path("stages").glob("*.py")} - {"__init__", "runner"}
    assert scripts == set(PIPELINE)
    made_by = {out: stage for stage in PIPELINE for out in map(folder_of, PIPELINE[stage].get("outs", []))}
    order = list(PIPELINE)
    for stage in PIPELINE:
        makers = {made_by[folder] for dep in PIPELINE[stage]["deps"] if (folder := folder_of(dep)) in made_by}
        assert all(order.index(maker) < order.index(stage) for maker in makers)


def folder_of(entry: str | dict[str, object]) -> str:
    """The part of an output's path that names what it is: `data/filtered` of `data/filtered/${dataset}`."""
    path = entry if isinstance(entry, str) else next(iter(entry))
    return "/".join(part for part in Path(path).parts if "$" not in part)


@pytest.mark.parametrize("stage", sorted(set(PIPELINE) - {"validate"}))
def test_a_stage_script_is_short_enough_to_be_read_at_a_glance(stage: str) -> None:
    assert len(Path(f"stages/{stage}.py").read_text(encoding="utf-8").splitlines()) <= 120


def test_no_stage_but_the_guard_depends_on_where_and_how_fast_it_runs() -> None:
    assert PIPELINE["validate"]["params"] == [{"params.yaml": None}]
    for stage in PIPELINE.values():
        assert not any(str(param).startswith("compute") for param in stage.get("params", []))


@pytest.mark.parametrize("name", sorted(ALONE))
def test_what_any_worker_may_run_is_a_test(name: str) -> None:
    assert any(f"def {name}(" in path.read_text(encoding="utf-8") for path in Path("tests").rglob("test_*.py"))
