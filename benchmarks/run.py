"""Run the benchmarks and write their table.

python -m benchmarks.run                                    # all but those that take long, minutes
python -m benchmarks.run --only neighbours --rounds 9
python -m benchmarks.run --photos ../photos/val2017.zip     # on photos of one's own
python -m benchmarks.run --only memory
python -m benchmarks.run --only scale --pictures 20000
python -m benchmarks.run --only intervals --pools 500 --real coco-sample/mobilenetv2-minilm-files
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import cuda
from benchmarks.paired import Row
from twinlens.report.summary import format_markdown

MODULES = {"measures": "ranking", "neighbours": "ranking", "search": "searching"}
SECTIONS = (
    "decoding",
    "embedding",
    "training",
    "measures",
    "neighbours",
    "search",
    "approximate",
    "exemplar",
    "retrievers",
    "cuda",
    "memory",
    "scale",
    "intervals",
    "engines",
)
LONG = ("engines", "retrievers", "memory", "scale", "intervals")  # only if asked for


def main() -> None:
    """Measure and print; `--write` keeps the table in benchmarks/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=[s for s in SECTIONS if s not in LONG])
    parser.add_argument("--photos", type=Path, help="a zip archive or a folder of JPEGs; drawn ones if absent")
    parser.add_argument("--count", type=int, default=256, help="pictures")
    parser.add_argument(
        "--pictures", type=int, default=100_000, help="of the search and scale sections; parts, of engines"
    )
    parser.add_argument("--pools", type=int, default=300, help="drawn in the intervals section, of each kind")
    parser.add_argument("--real", help="<dataset>/<model> that went through the pipeline, for the intervals section")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parts", nargs="+", default=[], help="of the cuda section: " + ", ".join(cuda.PARTS))
    parser.add_argument("--small", action="store_true", help="tiny models in the cuda section, to try the script")
    parser.add_argument("--write", type=Path, help="a Markdown file to write the table to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TWINLENS_SCRATCH"] = scratch
        rows = [row for section in options.only for row in measure(section, options)]
    table = format_markdown(
        ["what", "measured", "against", "ratio", "wanted"],
        [[row.what, row.figure, row.against, row.ratio, row.wanted] for row in rows],
    )
    text = f"{surroundings()}\n\n{table}\n"
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")


def measure(section: str, options: argparse.Namespace) -> list[Row]:
    """The rows of one section; its libraries are imported only then."""
    photos, device, count, rounds = options.photos, options.device, options.count, options.rounds
    if section == "cuda" and not (torch.cuda.is_available() or options.small):
        return [Row("cuda", "no CUDA device here: not measured", "", "")]
    function, arguments = {
        "decoding": ("run", (photos, count, rounds)),
        "embedding": ("run", (photos, device, count, rounds)),
        "training": ("run", (rounds,)),
        "measures": ("measures", (100_000, 10, rounds)),
        "neighbours": ("neighbours", (20_000, 768, 10, rounds)),
        "search": ("run", (options.pictures, rounds)),
        "approximate": ("run", (100_000, 512, 200)),
        "exemplar": ("run", (3_443, 1_000, 512, 128, rounds)),
        "retrievers": ("run", (5_000, 768, device, "at most 60 s on 2 cores")),
        "cuda": ("run", (photos, device, 8_192, options.small, tuple(options.parts))),
        "memory": ("run", (600, 5)),
        "scale": ("run", (options.pictures,)),
        "intervals": ("run", (options.pools, options.real)),
        "engines": ("run", (photos, count, rounds, options.pictures)),
    }[section]
    module = import_module(f"benchmarks.{MODULES.get(section, section)}")
    return list(getattr(module, function)(*arguments))


def surroundings() -> str:
    """The machine and the libraries, in a line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "simplejpeg", "pillow", "numpy"))
    return f"{os.cpu_count()} cores ({platform.machine()}), {device}; Python {platform.python_version()}, {libraries}."


if __name__ == "__main__":
    main()
