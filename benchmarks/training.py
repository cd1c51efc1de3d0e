"""The default's training: what Muon costs in numbers that a processor has, and what threads cost each other."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

from benchmarks.paired import Row

NATIVE: dict[str, str] = {}
PLAIN = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}  # as on a processor without AVX512 and bfloat16
STEPS = {"towers": 7, "captioner": 100}
NAMES = {"towers": "the default's CLIP", "captioner": "the default's BLIP"}
Figures = tuple[float, float, float]  # CPU seconds of a pass, of the optimisers, seconds of both


def run(rounds: int) -> list[Row]:
    """In processes of their own, A B A B."""
    instructions = {"this processor": NATIVE} | (
        {"AVX2 only": PLAIN} if platform.machine() in ("x86_64", "AMD64") else {}
    )
    return [
        *(optimiser(kind, where, told, rounds) for kind in STEPS for where, told in instructions.items()),
        *(threads(kind, rounds) for kind in STEPS),
    ]


def optimiser(kind: str, where: str, told: dict[str, str], rounds: int) -> Row:
    """Ours in float32 against torch's in bfloat16, in CPU seconds."""
    taken = [(step(kind, told), step(kind, told, muon="torch", steps=3)) for _ in range(rounds)]
    passes, ours = (median(mine[place] for mine, _ in taken) for place in (0, 1))
    return Row(
        f"Muon in float32, a step of {NAMES[kind]}, {where}",
        f"{ours * 1e3:,.0f} ms of CPU time, {ours / passes:.2f} of the forward and backward pass",
        f"torch's own, in bfloat16: {median(theirs[1] for _, theirs in taken) * 1e3:,.0f} ms",
        f"{median(theirs[1] / mine[1] for mine, theirs in taken):.1f} times as fast",
        "less than the pass",
    )


def threads(kind: str, rounds: int) -> Row:
    """A training alone and two at once, with one thread and with two."""
    one, two, ones, twos = [], [], [], []
    for _ in range(rounds):
        one.append(step(kind, NATIVE, threads=1)[2])
        two.append(step(kind, NATIVE, threads=2)[2])
        ones.append(both(partial(step, kind, NATIVE, threads=1)))
        twos.append(both(partial(step, kind, NATIVE, threads=2)))
    return Row(
        f"a step of {NAMES[kind]}, one thread; two trainings at once on {os.cpu_count()} cores",
        f"{median(one) * 1e3:,.0f} ms; {median(ones) * 1e3:,.0f} ms each",
        f"two threads: {median(two) * 1e3:,.0f} ms; {median(twos) * 1e3:,.0f} ms each",
        f"{median(map(_over, two, one)):.2f} of the time; {median(map(_over, twos, ones)):.1f} times it",
    )


def both(ask: partial[Figures]) -> float:
    """Seconds a step where two run at once, the mean of them."""
    with ThreadPoolExecutor(2) as pool:
        return sum(figures[2] for figures in pool.map(lambda _: ask(), range(2))) / 2


def step(kind: str, told: dict[str, str], muon: str = "ours", threads: int = 1, steps: int | None = None) -> Figures:
    """`benchmarks.step` in a process of its own, told to leave some instructions alone."""
    asked = ["--muon", muon, "--threads", str(threads), "--steps", str(steps or STEPS[kind])]
    command = [sys.executable, "-m", "benchmarks.step", kind, *asked]
    done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True, check=True)
    passes, optimising, whole = map(float, done.stdout.split())
    return passes, optimising, whole


def _over(one: float, other: float) -> float:
    return one / other
