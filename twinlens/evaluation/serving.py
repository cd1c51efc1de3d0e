"""Serving costs: what a query takes, what stands on disk, and what both cost, by task and retriever.

`clock` measured single queries; here they are joined with the records of the other stages and with prices. Figures of
two machines are never joined: what would need that is left out, with the reason as `why`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twinlens.core import paths
from twinlens.core.costs import name_machine_of
from twinlens.evaluation.cost import read_json
from twinlens.tasks.inputs import GENERATED

Row = tuple[str, str]  # task and retriever
CAPTIONING = "caption_caption"  # the part of the records that describes a picture
HOUR_MS = 3_600_000.0
MILLION = 1_000_000


def read_serving(
    dataset: str,
    model: str,
    costs: Mapping[str, Any],
    made_of: Mapping[Row, Sequence[str]],
    untrained: Mapping[Row, str],
) -> dict[str, Any]:
    """Read what `clock` and `validate` left, and build the block `serving`; see `build_serving`.

    Raises:
        DataError: one of them has not run.
    """
    clocked, prices = read_json(paths.cost("clock", dataset, model)), read_json(paths.prices_card())
    return build_serving(clocked, prices, costs, made_of, untrained, model)


def build_serving(
    clocked: Mapping[str, Any],
    prices: Mapping[str, Any],
    costs: Mapping[str, Any],
    made_of: Mapping[Row, Sequence[str]],
    untrained: Mapping[Row, str],
    model: str,
) -> dict[str, Any]:
    """Build the block `serving` of `metrics/cost.json`.

    Args:
        clocked: the record of the stage `clock`.
        prices: `machine_hour` and `thousand_calls`.
        costs: of `summarise_costs`.
        made_of: by task and retriever, the parts of `costs` that indexing a picture takes.
        untrained: the retriever that a row is by the model before training, whose costs are the same.
        model: the name of its card.

    Returns:
        `machine` and `prices` as they are, and under `tasks` the figures of each row: milliseconds of a query (median,
        95th percentile), of its embedding and of the search; `queries_per_s` in batches; `cold_start_s`; `host_mb` and
        `gpu_mb`; `disk_mb_per_million` items; and, where there are prices, `price_per_thousand_queries` and
        `price_per_million_indexed`.
    """
    machine = clocked["machine"]
    rows: dict[str, dict[str, Any]] = {}
    for (task, row), parts in made_of.items():
        of = clocked["tasks"].get(task, {})
        if (own := of.get(row) or of.get(untrained.get((task, row), ""))) is None:
            continue
        told = _join(own, costs, name_machine_of(machine))
        told |= _price(told, costs["parts"], parts, prices, model)
        rows.setdefault(task, {})[row] = {name: value for name, value in told.items() if name != "ms_mean"}
    return {"machine": machine, "prices": dict(prices), "seconds": clocked["seconds"], "tasks": rows}


def _join(own: Mapping[str, Any], costs: Mapping[str, Any], machine: str) -> dict[str, Any]:
    """A row's own figures with what other stages measured on the same machine."""
    told = {
        name: value for name, value in own.items() if name not in ("searches_per_s", "vector_bytes", "posting_bytes")
    }
    told["disk_mb_per_million"] = round(own["vector_bytes"] + own["posting_bytes"], 1)  # bytes an item are MB a million
    parts, stages = costs["parts"], costs["stages"]
    if GENERATED in own["asks"]:  # a picture that asks by its description has to be described
        captioning = parts.get(CAPTIONING, {}).get("items_per_s")
        if not captioning or stages.get("caption", {}).get("machine") != machine:
            return _leave_out(told, "describing the picture that asks was not measured on this machine")
        for name in ("ms_per_query", "ms_p95", "ms_mean", "encode_ms"):
            if name in told:
                told[name] = round(told[name] + 1000.0 / captioning, 4)
    if "ms_per_query" not in told:
        return told
    rates = [own["searches_per_s"]]
    if own["encode_ms"] > 0:
        rates += [parts.get(f"embed_{name}", {}).get("items_per_s") for name in own["asks"]]
    if GENERATED in own["asks"]:
        rates.append(parts[CAPTIONING]["items_per_s"])
    if all(rates) and (own["encode_ms"] == 0 or stages.get("embed", {}).get("machine") == machine):
        told["queries_per_s"] = round(1.0 / sum(1.0 / rate for rate in rates), 1)
    return told


def _leave_out(told: Mapping[str, Any], why: str) -> dict[str, Any]:
    measured = ("ms_per_query", "ms_p95", "ms_mean", "encode_ms", "cold_start_s", "host_mb", "gpu_mb", "queries")
    return {name: value for name, value in told.items() if name not in measured} | {"why": why}


def _price(
    told: Mapping[str, Any],
    parts: Mapping[str, Any],
    made_of: Sequence[str],
    prices: Mapping[str, Any],
    model: str,
) -> dict[str, float]:
    """Prices of a thousand queries, one after another, and of a million pictures indexed."""
    hour, calls = prices.get("machine_hour"), prices.get("thousand_calls", {}).get(model)
    found: dict[str, float] = {}
    if "ms_mean" in told and hour is not None:
        found["price_per_thousand_queries"] = _round(hour * told["ms_mean"] * 1000.0 / HOUR_MS)
    elif "ms_mean" not in told and calls is not None:
        found["price_per_thousand_queries"] = _round(calls * len(told["asks"]))
    own = [parts[name] for name in made_of if name in parts]
    money = sum(part["money"] / part["items"] for part in own if part.get("money") and part.get("items"))
    if len(own) == len(made_of) and (hour is not None or money):
        ms = sum(1000.0 / part["items_per_s"] for part in own if part["items_per_s"])
        found["price_per_million_indexed"] = _round(MILLION * (money + (hour or 0.0) * ms / HOUR_MS))
    return found


def _round(value: float) -> float:
    """Six digits: a price may be of a thousandth of a cent."""
    return float(f"{value:.6g}")
