"""What a candidate costs, as its own records say, and under which licence it may be used.

A figure that the records do not hold is unknown, never 0. Those of time and memory belong to the machine that they
were measured on, which is named beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twinlens.core.errors import DataError, suggest_nearest
from twinlens.evaluation.candidates import Candidate
from twinlens.evaluation.experiments import Experiment
from twinlens.evaluation.machines import UNNAMED, name_clocked, name_machine
from twinlens.tasks.base import TaskMetadata

COSTS = {  # in the order in which they are told and, unless others are asked for, chosen by
    "ms_per_query": "milliseconds of a query, one at a time: its vector and the search, median",
    "embed_ms": "milliseconds to index one more picture",
    "vector_bytes": "bytes of a picture's vectors",
    "peak_gpu_mb": "most memory on the GPU while indexing, MB",
    "parameters": "parameters of what embeds and captions",
    "tokens": "tokens that a service took, a picture",
    "money": "price of a service, a thousand pictures",
    "ms_p95": "the same of the slowest twentieth of queries, at least",
    "cold_start_s": "seconds from the start of a process to its first answer",
    "host_mb": "memory of a process that answers, MB",
    "gpu_mb": "memory that it takes of a GPU, MB",
    "disk_mb": "vectors and postings of a million items on disk, MB",
    "query_price": "price of a thousand queries, one after another",
    "index_price": "price of a million pictures indexed",
}
UNASKED = ("ms_per_query", "embed_ms", "vector_bytes", "peak_gpu_mb", "parameters", "tokens", "money")
CLOCKED = {  # by `clock`: their names in the block `serving` of metrics/cost.json
    "ms_per_query": "ms_per_query",
    "ms_p95": "ms_p95",
    "cold_start_s": "cold_start_s",
    "host_mb": "host_mb",
    "gpu_mb": "gpu_mb",
    "disk_mb": "disk_mb_per_million",
    "query_price": "price_per_thousand_queries",
    "index_price": "price_per_million_indexed",
}
OF_MACHINE = ("embed_ms", "peak_gpu_mb", *(name for name in CLOCKED if name != "disk_mb"))
# What times of one machine move by from run to run: nobody is called cheaper for less.
NOISE = dict.fromkeys(("ms_per_query", "ms_p95", "cold_start_s", "query_price"), 1.25)
CAPTION = "caption_"  # how the parts of the captioner's record begin
EMBED = "embed_"
PERMISSIVE = ("mit", "apache", "bsd", "isc", "cc0", "cc-by-2", "cc-by-3", "cc-by-4", "unlicense", "zlib")
TRAINED_HERE, NO_MODEL = "trained here", "no model"


@dataclass(frozen=True)
class Costs:
    """Costs of one candidate; None is unknown."""

    values: Mapping[str, float | None]
    machine: str  # that times and memory of indexing were measured on
    licence: str | None
    learned: bool = True  # whether a model embeds or captions its pictures; BM25 over given captions has none
    clocked_on: str = UNNAMED  # the machine that answered its queries

    def machine_of(self, name: str) -> str:
        """The machine that a cost was measured on."""
        return self.clocked_on if name in CLOCKED else self.machine


def check_costs(names: Sequence[str]) -> None:
    """Refuse costs that nobody knows.

    Raises:
        DataError: names the nearest.
    """
    for name in names:
        if name not in COSTS:
            raise DataError(f"there is no cost '{name}' ({suggest_nearest(name, COSTS)})")


def is_as_cheap(name: str, value: float, least: float) -> bool:
    """Whether a cost is as good as the least, as far as it can be measured."""
    return value <= least * NOISE.get(name, 1.0)


def read_costs(
    candidate: Candidate, task: str, row: str, about: TaskMetadata, licences: Mapping[str, str | None]
) -> Costs:
    """Read what a candidate costs; of several experiments the means.

    Args:
        candidate: a candidate.
        task: its name.
        row: the retriever.
        about: what the task's queries are made of.
        licences: by model and captioner, as their cards say; one without a card is unknown.
    """
    each = [_read_one(one, task, row, about) for one in candidate.experiments]
    values: dict[str, float | None] = {}
    for name in COSTS:
        known = [own[name] for own in each]
        values[name] = None if None in known else sum(v for v in known if v is not None) / len(known)
    machines = dict.fromkeys(name_machine(one) for one in candidate.experiments)
    parts = candidate.first.open_told(task, row).get("costs", (EMBED,))
    learned = any(part.startswith((EMBED, CAPTION)) for part in parts)
    clocked = dict.fromkeys(name_clocked(one) for one in candidate.experiments)
    licence = _find_licence(candidate.first, task, row, licences)
    return Costs(values, " and ".join(machines), licence, learned, " and ".join(clocked))


def allow_licence(licence: str | None, asked: str) -> bool:
    """Whether a licence is among those asked for.

    Args:
        licence: as a card says; several with commas between them must all be allowed.
        asked: `permissive`, or names with commas between them.
    """
    if licence is None:
        return False
    wanted = PERMISSIVE if asked == "permissive" else tuple(name.strip().lower() for name in asked.split(","))
    each = [name.strip().lower() for name in licence.split(",")]
    unbound = (TRAINED_HERE, NO_MODEL)
    if asked == "permissive":
        return all(one in unbound or (one.startswith(wanted) and not _is_bound(one)) for one in each)
    return all(one in unbound or one in wanted for one in each)


def _is_bound(licence: str) -> bool:
    """Whether a Creative Commons licence forbids commerce or changes, or binds what is made of it."""
    return any(f"-{clause}" in licence for clause in ("nc", "nd", "sa"))


def _find_stages(stages: Mapping[str, Any], parts: Sequence[str]) -> list[Mapping[str, Any]]:
    """The records of the stages that embed or caption a picture, of those whose parts are named."""
    begins = {"caption": CAPTION, "embed": EMBED}
    return [stages.get(name, {}) for name, own in begins.items() if any(part.startswith(own) for part in parts)]


def _read_one(experiment: Experiment, task: str, row: str, about: TaskMetadata) -> dict[str, float | None]:
    told = experiment.open_told(task, row)
    parts: Mapping[str, Any] = experiment.costs.get("parts", {})
    stages: Mapping[str, Any] = experiment.costs.get("stages", {})
    served: Mapping[str, Any] = experiment.costs.get("serving", {}).get("tasks", {}).get(task, {}).get(row, {})
    unknown: dict[str, float | None] = dict.fromkeys(COSTS) | {name: served.get(own) for name, own in CLOCKED.items()}
    if "costs" not in told or any(name not in parts for name in told["costs"]):
        return unknown
    own = [parts[name] for name in told["costs"]]
    embeds = [parts[name] for name in told["costs"] if name.startswith(EMBED)]
    models = [parts[name] for name in told["costs"] if name.startswith((EMBED, CAPTION))]
    asking = about.query_text or about.query_picture
    queries = parts.get(f"{EMBED}{asking}") if embeds else None
    used = _find_stages(stages, told["costs"])
    peaks: list[float | None] = [stage.get("peak_gpu_mb") for stage in used]
    return unknown | {
        "embed_ms": _sum([_ms(part) for part in own]),
        "vector_bytes": _sum([part.get("vector_bytes") for part in embeds]),
        "peak_gpu_mb": None if None in peaks else max((peak for peak in peaks if peak is not None), default=None),
        "parameters": _sum([part.get("parameters") for part in [*models, *([queries] if queries else [])]]),
        "tokens": _sum([_each(part, "tokens") for part in embeds]) if embeds else 0.0,
        "money": _scale(_sum([_each(part, "money") for part in embeds]), 1000.0) if embeds else 0.0,
    }


def _find_licence(experiment: Experiment, task: str, row: str, licences: Mapping[str, str | None]) -> str | None:
    parts = experiment.open_told(task, row).get("costs", ())
    if not parts:
        return licences.get(experiment.choice.get("model", ""))
    begins = {"model": EMBED, "captioner": CAPTION}
    kinds = [kind for kind, own in begins.items() if any(part.startswith(own) for part in parts)]
    found = [licences.get(experiment.choice.get(kind, "")) for kind in kinds]
    if None in found:
        return None
    return ", ".join(dict.fromkeys(one for one in found if one)) or NO_MODEL


def _ms(part: Mapping[str, Any]) -> float | None:
    rate = part.get("items_per_s")
    return None if rate is None else 1000.0 / rate if rate else 0.0


def _each(part: Mapping[str, Any], figure: str) -> float | None:
    return part[figure] / part["items"] if figure in part and part.get("items") else None


def _sum(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(sum(v for v in values if v is not None))


def _scale(value: float | None, times: float) -> float | None:
    return None if value is None else value * times
