"""Mutated inputs of every kind: taken or refused in a sentence, in bounded time and memory; and kills, drawn fairly."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.kills import A_ROUND, draw_kills
from benchmarks.stress import KINDS


@pytest.mark.slow
def test_mutated_inputs_end_in_a_sentence_and_never_in_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.stress", "--count", "40", "--kept", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    told = re.findall(r"(\w+): (\d+) taken, (\d+) refused in a sentence, 0 faults, [\d,]+ MB .*\n", ended.stdout)
    assert [kind for kind, _, _ in told] == list(KINDS)
    for _, taken, refused in told:
        assert int(taken) + int(refused) == 40
        assert int(refused) > 0


def test_kills_hit_every_stage_and_are_of_every_way_as_often_and_in_order() -> None:
    stages = [f"stage {n}" for n in range(17)]
    rounds = draw_kills(50, 3, stages)
    kills = [kill for one in rounds for kill in one]
    assert [len(one) for one in rounds] == [A_ROUND] * 5
    assert all(one == sorted(one, key=lambda kill: stages.index(kill.stage)) for one in rounds)
    assert set(Counter((kill.who, kill.how) for kill in kills).values()) == {5, 6}
    assert set(Counter(kill.stage for kill in kills).values()) <= {2, 3}
    assert rounds == draw_kills(50, 3, stages)
    assert rounds != draw_kills(50, 4, stages)
