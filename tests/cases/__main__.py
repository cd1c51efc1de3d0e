"""Tell each case with PASS or FAIL: `python -m tests.cases`; some, by their numbers: `python -m tests.cases 13 16`."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from pathlib import Path

from tests.cases.cases import CASES


def main() -> int:
    """Run the cases; 1 where one fails."""
    failed = 0
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    logging.getLogger("twinlens").setLevel(logging.ERROR)  # what a stage warns of is part of some cases
    for name, check in CASES.items():
        if sys.argv[1:] and name.split()[0] not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TWINLENS_SCRATCH"] = f"{folder}/scratch"
            try:
                check(Path(folder))
            except Exception as error:
                failed += 1
                line = traceback.extract_tb(error.__traceback__)[-1]
                told = str(error).strip().splitlines() or [line.line or ""]
                print(f"FAIL {name}: {type(error).__name__}, {Path(line.filename).name}:{line.lineno}: {told[0]}")
            else:
                print(f"PASS {name}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
