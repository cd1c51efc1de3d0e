"""The connection to a Ray cluster: the one that is named, or one on this machine for the time of a stage."""

from __future__ import annotations

import logging
import os
import re
import socket
from typing import Any

from twinlens.core.cores import count_cores
from twinlens.core.errors import ClusterError, ParamsError, require_extra

ANSWER_S = 10.0  # within which somebody answers at an address
OBJECT_STORE = 100_000_000  # bytes, of a cluster on this machine: nothing large goes through it


def connect(address: str | None) -> tuple[Any, bool]:
    """Connect to a cluster.

    Args:
        address: `compute.address`; None starts a cluster of this machine's cores and GPUs.

    Returns:
        The library, and whether the connection is to be ended by whoever asked for it.

    Raises:
        ExtraError: Ray is not installed.
        ClusterError: nobody answers at the address, or what answers is not fit.
    """
    with require_extra("ray", "compute.engine: ray"):
        import ray
    if ray.is_initialized():  # by a test, or by a program that uses this library
        return ray, False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    told: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        cores = count_cores()  # of the container, where Ray would take the machine's
        local = {"num_cpus": cores, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        ray.init(address="local", **told, **local)
        return ray, True
    _await_answer(address)
    try:
        ray.init(address=address, **told)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"compute.address: no work can be done at {address} ({tell(error)}). `ray start --head` starts a cluster "
            "there; it needs this version of Ray and of Python, and this user's token (RAY_AUTH_TOKEN)"
        ) from None
    return ray, True


def _await_answer(address: str) -> None:
    """Ask whether anybody listens at an address: Ray itself would wait for a minute and more."""
    found = re.fullmatch(r"(?:ray://)?\[?([^\]/]+?)\]?:(\d+)", address)
    if found is None:
        if address == "auto":
            return
        raise ParamsError(f"compute.address: '{address}' is no address; write auto, host:6379 or ray://host:10001")
    try:
        socket.create_connection((found[1], int(found[2])), ANSWER_S).close()
    except OSError as error:
        raise ClusterError(
            f"compute.address: nobody answers at {address} within {ANSWER_S:.0f} s ({error}). See whether the head "
            "node runs (`ray status` there) and whether a firewall is between"
        ) from None


def check_device(device: str) -> str:
    """Check that a device is one that workers of a cluster can have; gives `auto`, `cpu` or `cuda`.

    Raises:
        ParamsError: it is not.
    """
    if device in ("auto", "cpu", "cuda"):
        return device
    raise ParamsError(
        f"compute.device: {device} is of one machine; with compute.engine: ray each worker has the GPU that Ray gives "
        "it: write auto, cuda or cpu"
    )


def count(resource: str) -> int:
    """Count the GPUs or CPUs of a cluster, in use or not."""
    import ray

    return int(ray.cluster_resources().get(resource, 0))


def count_cores_a_worker(gpu: bool) -> int:
    """Count the cores that a worker may use: one, or those that its node has for each of its GPUs."""
    import ray

    if not gpu:
        return 1
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    return max(1, min((int(node.get("CPU", 1) // node["GPU"]) for node in nodes), default=1))


def tell(error: BaseException) -> str:
    """What Ray says of an error, in a line: the cause, and not where in Ray it was met."""
    text = " ".join(str(error).split())
    if found := re.search(r"exit detail: (.*?)\.? (?:Some common causes|$)", f"{text} "):
        return f"its process ended: {found[1][:300]}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)), None)
    cause = next((line for line in lines if re.search(r"killed|died|memory", line, re.IGNORECASE)), None)
    return " ".join((told or cause or (lines[0] if lines else type(error).__name__)).split())[:400]
