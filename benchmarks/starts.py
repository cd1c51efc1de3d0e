"""What every stage costs before its work begins: seconds until its script is imported, and of work that is all kept.

python -m benchmarks.starts                            # imports of every stage, against `import torch`
python -m benchmarks.starts --beside ../before         # and those of another checkout, turn by turn
python -m benchmarks.starts --run train embed caption  # those stages too, twice; the second time all parts are kept

A stage that is run writes its outputs anew, so run that in a copy of a finished pipeline. Processor seconds say more
than the clock where a machine has other work.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import yaml

from twinlens.report.summary import format_markdown

TORCH = "import torch"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="another checkout, measured turn by turn with this one")
    parser.add_argument("--run", nargs="*", default=[], help="stages that are run as well")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    checkouts = [*([options.beside.resolve()] if options.beside else []), Path.cwd()]
    stages = list(yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"])
    commands = {"`import torch`": [sys.executable, "-c", TORCH]}
    commands |= {f"{stage}: imports": [sys.executable, "-c", f"import stages.{stage}"] for stage in stages}
    commands |= {f"{stage}: all parts kept": list_command(stage) for stage in options.run}
    rows = []
    for what, command in commands.items():
        taken: dict[Path, list[tuple[float, float]]] = {checkout: [] for checkout in checkouts}
        for counted in range(options.rounds + 1):  # the first fills caches, and the parts that are kept
            for checkout in checkouts:
                seconds = measure_command(command, checkout)
                if counted:
                    taken[checkout].append(seconds)
        rows.append([what, *(cell for checkout in checkouts for cell in format_seconds(taken[checkout]))])
    names = [" before", " after"] if options.beside else [""]
    heads = [f"{unit}{name}" for name in names for unit in ("processor s", "clock s")]
    print(format_markdown(["stage", *heads], rows))


def list_command(stage: str) -> list[str]:
    """The command of a stage, with the names that params.yaml has in use."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    command = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["cmd"]
    for name in ("dataset", "model", "captioner"):
        command = command.replace(f"${{item.{name}}}", params[name]).replace(f"${{{name}}}", params[name])
    return [sys.executable, *command.split()[1:]]


def measure_command(command: list[str], checkout: Path) -> tuple[float, float]:
    """Processor and clock seconds of a command in a checkout.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL)
    clock, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime), clock


def format_seconds(taken: list[tuple[float, float]]) -> list[str]:
    """The median of processor seconds, and of those of the clock."""
    return [f"{statistics.median(one[place] for one in taken):.2f}" for place in (0, 1)]


if __name__ == "__main__":
    main()
