"""Common start of every stage script: names from the command line, a quiet log, readable failures."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from stages import PARENT
from twinlens.core.errors import TwinLensError
from twinlens.core.parent import end_with_dvc
from twinlens.core.resources import explain_disk_fault, is_memory_shortage

log = logging.getLogger("twinlens")

LESS_MEMORY = (
    "Lower compute.decode_threads, compute.image_batch or compute.text_batch in params.yaml, which reruns nothing that "
    "is done; or resize.images_per_shard, or train.batch_size on the model's card; or close other programs"
)


def run_stage(main: Callable[..., None]) -> None:
    """Call `main` with the names it takes (`dataset`, `model`, `captioner`) from the command line.

    A `TwinLensError` ends the stage with its message and no traceback, and so do a disk that cannot be written and
    memory that runs out; anything else is a defect of the project and keeps its traceback.
    """
    parser = argparse.ArgumentParser(description=inspect.getdoc(sys.modules[main.__module__]))
    for name in inspect.signature(main).parameters:
        parser.add_argument(f"--{name}", required=True, help=f"a card in cards/{name}s")
    arguments = vars(parser.parse_args())
    _quieten()
    stage = Path(sys.argv[0]).stem
    unlink_outputs(stage, arguments)
    try:
        end_with_dvc(PARENT)
        main(**arguments)
    except TwinLensError as error:
        sys.exit(f"{stage}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{stage}: interrupted; finished parts are kept, run again to go on")
    except Exception as error:
        if (told := explain_disk_fault(error)) is not None:
            sys.exit(f"{stage}: {told}")
        if is_memory_shortage(error):
            sys.exit(f"{stage}: memory ran out ({' '.join(str(error).split())[:200]}). {LESS_MEMORY}")
        raise


def unlink_outputs(stage: str, names: Mapping[str, str]) -> None:
    """Remove outputs of a stage that are links into DVC's cache, as DVC does before it runs a stage.

    By hand nobody does: the stage would write into the cache, whose files then are no longer what their names say.

    Args:
        stage: its name in dvc.yaml, which says where it writes.
        names: what it is run for, by kind; of other kinds, what params.yaml names.
    """
    pipeline, settings = (_read_yaml(Path(file)) for file in ("dvc.yaml", "params.yaml"))
    names = {kind: str(settings.get(kind)) for kind in ("dataset", "model", "captioner")} | dict(names)
    outputs = pipeline.get("stages", {}).get(stage, {}).get("outs") or []
    for output in (next(iter(one)) if isinstance(one, dict) else one for one in outputs):
        place = Path(re.sub(r"\$\{(?:item\.)?(\w+)\}", lambda found: names.get(found[1], found[0]), output))
        for path in place.rglob("*") if place.is_dir() and not place.is_symlink() else [place]:
            if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
                path.unlink()


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError):  # which the stage itself will tell of
        return {}
    return found if isinstance(found, dict) else {}


def _quieten() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",  # a background thread that calls the hub
    }.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # downloads; on a terminal they show
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|timm|open_clip|transformers)\b.*")
