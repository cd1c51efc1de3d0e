"""What a cluster costs: the arithmetic of docs/scale.md, its tables, and the files of clusters beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import scale_costs
from benchmarks.scale_costs import MEASURED, fill, list_bytes, plan, write_tables

CLUSTERS = Path("docs/cluster")


def steps(gpus: int, pictures: float = 1e8, **given: float) -> dict[str, scale_costs.Step]:
    return {step.name: step for step in plan(pictures, gpus, given)}


def test_the_document_has_the_tables_that_the_script_computes() -> None:
    document = scale_costs.DOCUMENT.read_text(encoding="utf-8")
    assert fill(document, dict(write_tables(100e6, [8, 64]))) == document
    assert document.count("<!-- scale: ") == 4


def test_a_step_takes_what_its_scarcest_resource_needs() -> None:
    embed = steps(8)["embed pictures"]
    assert embed.limit == "GPUs"
    assert embed.seconds == pytest.approx(1e8 / (8 * 2357 * 0.9))  # 1.6 hours
    assert embed.written == 1e8 * 768 * 4
    resize = steps(8)["resize"]
    assert (resize.limit, resize.gpu_share) == ("storage", 0.0)
    assert resize.seconds == pytest.approx(1e8 * (163_000 + 100_000) / 2.5e9)  # 2.9 hours
    cores = steps(8, store_per_node=10)["resize"]
    assert cores.limit == "cores"
    assert cores.seconds == pytest.approx(1e8 / (8 * 24 * 77))  # 1.9 hours


def test_more_gpus_help_what_gpus_limit_and_nothing_else() -> None:
    few, many = steps(8), steps(64)
    times = {"download": 1, "caption": 8, "embed pictures": 8, "join the vectors": 1, "rank": 1, "index": 1}
    for name, faster in times.items():
        assert few[name].seconds / many[name].seconds == pytest.approx(faster), name
    assert many["rank"].read == 8 * few["rank"].read  # each node reads all vectors
    assert steps(64, part_driver=10)["caption"].limit == "driver"


def test_time_and_bytes_follow_the_number_of_pictures() -> None:
    whole, tenth = steps(8), steps(8, pictures=1e7)
    assert all(whole[name].seconds == pytest.approx(10 * tenth[name].seconds) for name in whole)
    assert dict(list_bytes(1e8))["the same: a bit a number and 8 bytes (RaBitQ)"] == 1e8 * 2 * 104


def test_what_is_called_measured_stands_in_the_results() -> None:
    results = Path("benchmarks/RESULTS.md").read_text(encoding="utf-8")
    said = [
        "2,357 img/s",
        "35,811 texts/s",
        "1,427 img/s",
        "B: 1,226",
        "324, 1,163, 3,668",
        "B: .122",
        "33, 42 s",
        "612 MB",
    ]
    assert [one for one in said if one not in results] == []
    assert "70,000 pictures/s" in results
    assert MEASURED["embed_gpu"].value == 2357
    assert MEASURED["resize_core"].value == round(1226 / 16)
    assert MEASURED["decode_core"].value == round(3668 / 16)
    assert MEASURED["rank_gpu"].value == pytest.approx(20_000 * 100_000 / 0.122, rel=0.03)


def test_the_file_of_the_cluster_launcher_is_one_to_it() -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    config: dict[str, Any] = yaml.safe_load((CLUSTERS / "vms.yaml").read_text(encoding="utf-8"))
    util.validate_config(util.prepare_config(config))


def test_the_job_for_kubernetes_names_the_ray_that_is_installed() -> None:
    job = yaml.safe_load((CLUSTERS / "kuberay.yaml").read_text(encoding="utf-8"))
    pinned = Path("requirements.txt").read_text(encoding="utf-8")
    assert f"ray=={job['spec']['rayClusterSpec']['rayVersion']}" in pinned.replace("ray[default]", "ray")
    pods = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
    for pod in pods:
        (container,) = pod["template"]["spec"]["containers"]
        assert container["volumeMounts"] == [{"name": "work", "mountPath": "/mnt"}]
    assert "cd /mnt/twinlens" in job["spec"]["entrypoint"]
    assert all(pod["minReplicas"] >= 1 for pod in job["spec"]["rayClusterSpec"]["workerGroupSpecs"])  # or `auto` is cpu
