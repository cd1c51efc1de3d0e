"""The shape of the project, held by walking its imports: rooms, and what each stage depends on."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

PIPELINE = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]

# What moves bytes, logs or checks, but decides no result: no stage depends on it.
PLUMBING = {
    f"twinlens/{name}.py"
    for name in (
        "__init__",
        "config/__init__",
        "config/base",
        "config/captioners",
        "config/cards",
        "config/datasets",
        "config/explain",
        "config/load",
        "config/models",
        "config/params",
        "config/training",
        "costs",
        "errors",
        "fetch",
        "hashing",
        "hub",
        "paths",
        "progress",
        "scratch",
    )
} | {"stages/__init__.py", "stages/runner.py"}

PURE = (
    "batches",
    "bm25",
    "categories",
    "category_search",
    "datacard",
    "distances",
    "distractors",
    "duplicates",
    "exemplar/__init__",
    "filtering",
    "full_ranking",
    "fusion",
    "gates",
    "grouping",
    "hybrid",
    "intervals",
    "keeping",
    "listed",
    "measures",
    "probes",
    "naming",
    "published",
    "sources",
    "tasks",
    "tables",
    "runs",
    "scoring",
    "thumbnails",
    "validation",
    "word_search",
    "words",
)
SLOW = {"torch", "open_clip", "timm", "transformers", "sentence_transformers", "torchvision", "torchmetrics"}


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports, at any depth, as they stand."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def file_of(module: str) -> Path | None:
    """The project's own file behind a dotted name."""
    base = Path(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists() and path.parts[0] in ("twinlens", "stages"):
            return path
    return None


def reached_from(script: Path) -> set[Path]:
    """The script and every file of the project that it imports, directly or not, packages included."""
    seen, waiting = {script}, [script]
    while waiting:
        for module in imports_of(waiting.pop()):
            parts = module.split(".")
            for path in (file_of(".".join(parts[: n + 1])) for n in range(len(parts))):
                if path is not None and path not in seen:
                    seen.add(path)
                    waiting.append(path)
    return seen


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_depends_on_all_the_code_that_decides_its_output(stage: str) -> None:
    deps = [Path(dep) for dep in PIPELINE[stage]["deps"]]
    needed = {path for path in reached_from(Path(f"stages/{stage}.py")) if path.as_posix() not in PLUMBING}
    uncovered = {p for p in needed if not any(dep == p or dep in p.parents for dep in deps)}
    assert not uncovered, f"{stage}: add to its deps in dvc.yaml: {sorted(map(str, uncovered))}"


@pytest.mark.parametrize("stage", ["train", "embed"])
def test_the_stages_that_load_encoders_by_the_family_of_a_card_depend_on_all_families(stage: str) -> None:
    assert "twinlens/models/encoders" in PIPELINE[stage]["deps"]


@pytest.mark.parametrize("stage", ["download", "filter", "resize"])
def test_the_stages_that_load_an_adapter_by_its_cards_name_depend_on_what_all_adapters_import(stage: str) -> None:
    deps = [Path(dep) for dep in PIPELINE[stage]["deps"]]
    reached = {path for file in Path("twinlens/datasets").rglob("*.py") for path in reached_from(file)}
    needed = {path for path in reached if path.as_posix() not in PLUMBING}
    assert not {p for p in needed if not any(dep == p or dep in p.parents for dep in deps)}


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_depends_on_no_code_that_it_does_not_reach(stage: str) -> None:
    reached = reached_from(Path(f"stages/{stage}.py"))
    code = [Path(dep) for dep in PIPELINE[stage]["deps"] if dep.startswith(("twinlens", "stages"))]
    idle = [dep for dep in code if not any(dep == p or dep in p.parents for p in reached)]
    assert not idle


@pytest.mark.parametrize("stage", ["caption", "train"])
def test_what_learns_runs_again_when_a_default_of_the_recipes_changes(stage: str) -> None:
    assert "twinlens/config/training.py" in PIPELINE[stage]["deps"]  # cards name only what is not the default


@pytest.mark.parametrize("stage", sorted(set(PIPELINE) - {"validate"}))
def test_a_stage_depends_on_no_card_but_as_validate_writes_it(stage: str) -> None:
    """In the file there are comments, `about:` and bases, of which no stage but the guard should hear."""
    assert not [dep for dep in PIPELINE[stage]["deps"] if dep.startswith("cards")]
    written = [key for param in PIPELINE[stage]["params"] if isinstance(param, dict) for key in param]
    assert written
    assert all(key.startswith("data/cards/") for key in written)


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_has_a_description_and_the_name_of_its_script(stage: str) -> None:
    assert PIPELINE[stage]["desc"]
    assert PIPELINE[stage]["cmd"].startswith(f"python -m stages.{stage}")
    assert Path(f"stages/{stage}.py").exists()


def test_every_stage_script_is_in_the_pipeline_in_order_of_flow() -> None:
    scripts = {path.stem for path in Path("stages").glob("*.py")} - {"__init__", "runner"}
    assert scripts == set(PIPELINE)
    assert list(PIPELINE) == [
        "validate", "download", "filter", "resize", "group", "caption", "train", "embed", "rank", "index", "evaluate",
        "approximate", "report",
    ]  # fmt: skip


@pytest.mark.parametrize("stage", sorted(set(PIPELINE) - {"validate"}))
def test_a_stage_script_is_short_enough_to_be_read_at_a_glance(stage: str) -> None:
    assert len(Path(f"stages/{stage}.py").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_import_no_model_library(module: str) -> None:
    reached = reached_from(Path(f"twinlens/{module}.py"))
    heavy = {name.split(".")[0] for path in reached for name in imports_of(path)} & SLOW
    assert not heavy


def test_no_stage_but_the_guard_depends_on_where_and_how_fast_it_runs() -> None:
    assert PIPELINE["validate"]["params"] == [{"params.yaml": None}]
    for stage in PIPELINE.values():
        assert not any(str(param).startswith("compute") for param in stage.get("params", []))


def test_stages_import_no_stage_and_the_library_imports_neither_stages_nor_tests() -> None:
    for path in Path("stages").glob("*.py"):
        assert {m for m in imports_of(path) if m.startswith("stages.")} <= {"stages.runner", "stages.runner.run_stage"}
    for path in Path("twinlens").rglob("*.py"):
        assert not [m for m in imports_of(path) if m.split(".")[0] in ("stages", "tests", "benchmarks")]


def test_files_stay_small() -> None:
    long = {
        str(path): lines
        for path in [*Path("twinlens").rglob("*.py"), *Path("stages").glob("*.py")]
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 350
    }
    assert not long
