"""What a query takes, as tables of the report: the fastest first, the unknown last and with its reason."""

from __future__ import annotations

from typing import Any

from twinlens.report.serving import build_serving_section
from twinlens.report.templates import load_template

MACHINE = {
    **{"processor": "old", "cores": 4, "usable_cores": 2, "gpu": "A100", "torch": "2.11", "device": "cuda-bfloat16"},
    **{"threads": 2, "digest": "abc"},
}
FAST = {
    "ms_per_query": 1.25, "ms_p95": 2.5, "encode_ms": 1.0, "search_ms": 0.25, "queries_per_s": 1234.0,
    "cold_start_s": 3.25, "host_mb": 512.0, "disk_mb_per_million": 600.0,
}  # fmt: skip
UNKNOWN = {"search_ms": 0.5, "disk_mb_per_million": 64.0, "why": "a service embeds queries: none was sent"}


def serving(**more: Any) -> dict[str, Any]:
    rows = {"paid": UNKNOWN, "slow": FAST | {"ms_per_query": 9.0} | more, "fast": FAST}
    return {"machine": MACHINE, "tasks": {"caption_to_image": rows, "unmeasured": {"x": FAST}}}


def test_the_fastest_is_first_and_the_unknown_last() -> None:
    found = build_serving_section(serving(), ["caption_to_image"])
    assert [row["name"] for row in found["rows"]["caption_to_image"]] == ["fast", "slow", "paid"]
    assert list(found["rows"]) == ["caption_to_image"]
    assert found["machine"] == "old, 2 of 4 cores, A100, torch 2.11, cuda-bfloat16, 2 threads (abc)"
    assert (found["gpu"], found["priced"]) == (False, False)
    more = build_serving_section(serving(gpu_mb=100.0, price_per_thousand_queries=0.01), ["caption_to_image"])
    assert (more["gpu"], more["priced"]) == (True, True)


def test_a_report_of_older_records_has_no_such_table() -> None:
    assert build_serving_section({}, ["caption_to_image"])["rows"] == {}


def test_the_page_shows_every_figure_and_why_one_is_unknown() -> None:
    source = load_template("page.html.j2").environment.loader
    assert source is not None
    text = source.get_source(load_template("page.html.j2").environment, "page.html.j2")[0]
    begin, end = text.index("{% if serving.rows %}"), text.index('<section id="environment">')
    part = load_template("page.html.j2").environment.from_string(text[begin:end])
    shown = part.render(serving=build_serving_section(serving(price_per_million_indexed=2.5), ["caption_to_image"]))
    assert "unknown: a service embeds queries: none was sent" in shown
    for cell in ("1.25", "2.5", "1,234", "3.2", "512", "600"):
        assert f"<td>{cell}</td>" in shown
    assert "1,000,000 indexed" in shown
    assert "(abc)" in shown
