"""What a large pool costs on a cluster: hours, money, bytes, and the resource that is the limit at each step.

python -m benchmarks.scale_costs                                # 100 million pictures on 8 and on 64 H100s
python -m benchmarks.scale_costs --pictures 1e9 --gpus 64 256 --price 2
python -m benchmarks.scale_costs --write                        # the tables of docs/scale.md

It is arithmetic, no simulation: each step needs so much of each resource for an item, and is as slow as the resource
that is used up first. What was measured stands in `MEASURED` with its place in RESULTS.md, what is taken for granted in
`ASSUMED`; `scale_parts` measures beside it, on this machine, that workers reach what one alone does.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path("docs/scale.md")
BLOCK = re.compile(r"(<!-- scale: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
GPU, CPU, STORE, LINE, DRIVER = "GPUs", "cores", "storage", "line", "driver"
GB = 1e9


@dataclass(frozen=True)
class Figure:
    """A number with its unit and where it comes from."""

    value: float
    unit: str
    source: str


CUDA = "RESULTS.md, CUDA"
MEASURED: dict[str, Figure] = {
    "embed_gpu": Figure(2357, "pictures/s", f"{CUDA}: `embed` loop, ViT-L-14, bfloat16, on an H200"),
    "text_gpu": Figure(35811, "texts/s", f"{CUDA}: texts, ViT-L-14, on an H200"),
    "caption_gpu": Figure(1427, "pictures/s", f"{CUDA}: BLIP-base from shards, greedy, on an H200"),
    "rank_gpu": Figure(1.6e10, "scores/s", f"{CUDA}: 20,000 of 100,000 x 768 in .122 s, on an H200"),
    "resize_core": Figure(77, "pictures/s", f"{CUDA}: 1,226 by 16 virtual cores, the slower machine"),
    "decode_core": Figure(229, "pictures/s", f"{CUDA}: decode and fit to 224, 3,668 by 16 virtual cores"),
    "index_core": Figure(
        1350, "pictures/s", "RESULTS.md, Search: 100,000 in 33 to 42 s on two cores, mostly thumbnails"
    ),
    "thumbnail_bytes": Figure(6100, "bytes", "RESULTS.md, Search: 612 MB an index of 100,000"),
    "join_driver": Figure(70_000, "pictures/s", "RESULTS.md, Workers: tables of shards joined, on a busy machine"),
    "part_driver": Figure(1370, "parts/s", "RESULTS.md, A cluster on this machine: 100,000 parts of no work in 73 s"),
}
ASSUMED: dict[str, Figure] = {
    "h100_compute": Figure(0.9, "of an H200", "the same chip: 989 TFLOP/s in bfloat16 on both; a tenth taken off"),
    "h100_memory": Figure(0.7, "of an H200", "3.35 of 4.8 TB/s, which words come by, one after the other"),
    "cores_per_gpu": Figure(24, "virtual cores", "192 beside 8 GPUs"),
    "store_per_node": Figure(2.5, "GB/s", "what 8 GPUs' node reads and writes of a bucket or file system: 20 Gbit/s"),
    "store_whole": Figure(20, "GB/s", "what the bucket or file system gives to all nodes together"),
    "line": Figure(1.25, "GB/s", "the line that pictures come through: 10 Gbit/s"),
    "picture_bytes": Figure(163_000, "bytes", "COCO: 20 GB of 123,287"),
    "stored_bytes": Figure(100_000, "bytes", "at 384 px and quality 95: .6 to .7 of the file, of two photos"),
    "dim": Figure(768, "numbers", "ViT-L-14"),
    "queries": Figure(25_000, "queries", "five captions of 5,000 pictures"),
    "retrievers": Figure(3, "passes", "pixels, generated captions, both"),
    "gpu_hour": Figure(3.0, "dollars", "an example of November 2026, none of a certain provider: put your own"),
}
GPUS_PER_NODE = 8
PER_PART = {"resize": 1000, "caption": 128, "embed": 2048, "text": 4096}  # items, on GPUs
BLOCK_SCORES = 10**9  # of a part of `rank`: far more than the driver's limit could matter for


@dataclass(frozen=True)
class Step:
    """A step: how many items a second each resource can do, and the bytes that it moves."""

    name: str
    items: float
    rates: Mapping[str, float]  # by resource, items/s
    read: float  # bytes
    written: float

    @property
    def limit(self) -> str:
        """The resource that is used up first."""
        return min(self.rates, key=lambda name: self.rates[name])

    @property
    def seconds(self) -> float:
        """How long it takes, when that resource is never idle."""
        return self.items / self.rates[self.limit]

    @property
    def gpu_share(self) -> float:
        """Share of the time that the GPUs work."""
        return self.rates[self.limit] / self.rates[GPU] if GPU in self.rates else 0.0

    @property
    def bandwidth(self) -> float:
        """GB/s that all nodes read and write together."""
        return (self.read + self.written) / self.seconds / GB


def plan(pictures: float, gpus: int, given: Mapping[str, float] | None = None) -> list[Step]:
    """Plan the steps of a pool on a cluster.

    Args:
        pictures: how many.
        gpus: H100s, eight a node.
        given: values in place of those of `MEASURED` and `ASSUMED`.
    """
    v = {name: figure.value for name, figure in (MEASURED | ASSUMED).items()} | dict(given or {})
    nodes = max(1.0, gpus / GPUS_PER_NODE)
    cores = gpus * v["cores_per_gpu"]
    store = min(nodes * v["store_per_node"], v["store_whole"]) * GB
    vector = 4 * v["dim"]

    def step(
        name: str, items: float, read: float, written: float, part: int = 0, rates: Mapping[str, float] | None = None
    ) -> Step:
        """A step whose `read` and `written` are bytes an item, by all nodes, or by the driver's where `part` is 0."""
        limits = dict(rates or {})
        limits[STORE] = (store if part else v["store_per_node"] * GB) / (read + written)
        if part:
            limits[DRIVER] = v["part_driver"] * part
        return Step(name, items, limits, items * read, items * written)

    ranked = pictures * v["queries"] * v["retrievers"]
    shares = ranked / (pictures * v["retrievers"] * nodes)  # scores a vector that a node reads
    return [
        step("download", pictures, 0, v["picture_bytes"], rates={LINE: v["line"] * GB / v["picture_bytes"]}),
        step(
            "resize",
            pictures,
            v["picture_bytes"],
            v["stored_bytes"],
            PER_PART["resize"],
            rates={CPU: cores * v["resize_core"]},
        ),
        Step("join the shards", pictures, {DRIVER: v["join_driver"]}, 200 * pictures, 200 * pictures),
        step(
            "caption",
            pictures,
            v["stored_bytes"],
            60,
            PER_PART["caption"],
            rates={GPU: gpus * v["caption_gpu"] * v["h100_memory"], CPU: cores * v["decode_core"]},
        ),
        step(
            "embed pictures",
            pictures,
            v["stored_bytes"],
            vector,
            PER_PART["embed"],
            rates={GPU: gpus * v["embed_gpu"] * v["h100_compute"], CPU: cores * v["decode_core"]},
        ),
        step(
            "embed captions",
            pictures,
            60,
            vector,
            PER_PART["text"],
            rates={GPU: gpus * v["text_gpu"] * v["h100_compute"]},
        ),
        step("join the vectors", 2 * pictures, vector, vector),
        step("rank", ranked, vector / shares, 0, BLOCK_SCORES, rates={GPU: gpus * v["rank_gpu"] * v["h100_compute"]}),
        step(
            "index",
            pictures,
            v["stored_bytes"] + 2 * vector,
            v["thumbnail_bytes"] + v["dim"] / 4 + 16,
            rates={CPU: v["cores_per_gpu"] * GPUS_PER_NODE * v["index_core"]},  # of the driver's node
        ),
    ]


def list_bytes(pictures: float) -> list[tuple[str, float]]:
    """List what lies on the storage, in bytes a picture, each with its name."""
    v = {name: figure.value for name, figure in (MEASURED | ASSUMED).items()}
    dim = v["dim"]
    every = [
        ("pictures as they come", v["picture_bytes"]),
        ("shards of `resize`; its parts go once they stand", v["stored_bytes"]),
        ("vectors of pictures and captions, float32; as much again as parts", 2 * 4 * dim),
        ("the same in the index: float16", 2 * 2 * dim),
        ("the same: int8", 2 * dim),
        ("the same: a bit a number and 8 bytes (RaBitQ)", 2 * (dim / 8 + 8)),
        ("thumbnails of the index", v["thumbnail_bytes"]),
    ]
    return [(name, pictures * each) for name, each in every]


# ------------------------------------------------------------------------ tables


def write_plan(pictures: float, gpus: int, price: float | None = None) -> list[str]:
    """Write the plan of a cluster as a table of Markdown."""
    dollars = ASSUMED["gpu_hour"].value if price is None else price
    steps = plan(pictures, gpus)
    rows = [
        f"| {step.name} | {_hours(step.seconds)} | {_money(step.seconds * gpus / 3600 * dollars)} | {step.limit} | "
        f"{step.gpu_share:.0%} | {_bytes(step.read)} | {_bytes(step.written)} | {step.bandwidth:.1f} |"
        for step in steps
    ]
    seconds = sum(step.seconds for step in steps)
    busy = sum(step.seconds * step.gpu_share for step in steps) / seconds
    total = (
        f"| **all, one after the other** | **{_hours(seconds)}** | **{_money(seconds * gpus / 3600 * dollars)}** | | "
        f"{busy:.0%} | {_bytes(sum(s.read for s in steps))} | {_bytes(sum(s.written for s in steps))} | |"
    )
    return [
        "| step | hours | dollars | limit | GPUs at work | read | written | GB/s |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
        *rows,
        total,
    ]


def write_bytes(pictures: float) -> list[str]:
    """Write what lies on the storage as a table."""
    rows = [f"| {name} | {_bytes(size)} |" for name, size in list_bytes(pictures)]
    return ["| what lies there | bytes |", "|---|---:|", *rows]


def write_figures() -> list[str]:
    """Write what the plans are computed from as a table."""
    every = [("measured", one) for one in MEASURED.items()] + [("assumed", one) for one in ASSUMED.items()]
    rows = [f"| `{name}` | {_number(f.value)} {f.unit} | {kind}: {f.source} |" for kind, (name, f) in every]
    return ["| figure | value | from |", "|---|---:|---|", *rows]


def write_tables(pictures: float, gpus: Sequence[int], price: float | None = None) -> Iterator[tuple[str, list[str]]]:
    """Write all tables, each with its name."""
    for count in gpus:
        yield f"plan-{count}", write_plan(pictures, count, price)
    yield "bytes", write_bytes(pictures)
    yield "figures", write_figures()


def fill(document: str, tables: Mapping[str, list[str]]) -> str:
    """Fill the tables into a document, between `<!-- scale: NAME -->` and `<!-- end -->`."""
    return BLOCK.sub(lambda found: "\n".join([found[1].rstrip(), *tables[found["name"]], found[3]]), document)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.2f}" if hours < 1 else f"{hours:.1f}"


def _money(dollars: float) -> str:
    return f"{dollars:,.0f}"


def _bytes(size: float) -> str:
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 1000 * scale else f"{size / scale:,.0f} {unit}"
    return "0" if not size else f"{size:.0f} B"


def _number(value: float) -> str:
    return f"{value:.2g}" if value >= 1e9 else f"{value:,g}"


def main() -> None:
    """Print the tables, or write those of the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=float, default=100e6)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--price", type=float, help="dollars an hour of a GPU, its share of the node included")
    parser.add_argument("--write", action="store_true", help=f"fill the tables of {DOCUMENT}")
    given = parser.parse_args()
    tables = dict(write_tables(given.pictures, given.gpus, given.price))
    if given.write:
        DOCUMENT.write_text(fill(DOCUMENT.read_text(encoding="utf-8"), tables), encoding="utf-8")
        return
    for name, lines in tables.items():
        print(f"\n{name}\n", *lines, sep="\n")


if __name__ == "__main__":
    main()
