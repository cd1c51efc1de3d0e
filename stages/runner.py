"""Common start of every stage script: names from the command line, a quiet log, readable failures."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from stages import INTERRUPTED, PARENT
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
    try:
        end_with_dvc(PARENT)
        main(**arguments)
    except TwinLensError as error:
        sys.exit(f"{stage}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{stage}: {INTERRUPTED}")
    except Exception as error:
        if (told := explain_disk_fault(error)) is not None:
            sys.exit(f"{stage}: {told}")
        if is_memory_shortage(error):
            sys.exit(f"{stage}: memory ran out ({' '.join(str(error).split())[:200]}). {LESS_MEMORY}")
        raise


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
