"""Judgements in both forms against plain dictionaries of pairs, and against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.core.errors import DataError
from twinlens.tasks.qrels import Groups, Pairs, Qrels

QUERIES, ITEMS = ["q0", "q1", "q2"], ["a", "b", "c", "d"]


@dataclass(frozen=True)
class Plain:
    """What is relevant, as a dictionary of pairs with their gains."""

    queries: int
    items: int
    gain_of: dict[tuple[int, int], float]

    def of(self, query: int) -> dict[int, float]:
        return {item: self.gain_of[query, item] for item in range(self.items) if (query, item) in self.gain_of}

    def among(self, rows: list[int]) -> Plain:
        kept = {
            (query, place): self.gain_of[query, item]
            for query in range(self.queries)
            for place, item in enumerate(rows)
            if (query, item) in self.gain_of
        }
        return Plain(self.queries, len(rows), kept)

    def listed(self) -> Pairs:
        """The same as a list, shuffled."""
        pairs = sorted(self.gain_of, key=lambda pair: (pair[1] * 7 + pair[0] * 3) % 5)
        table = pl.DataFrame(
            [(f"q{query}", f"i{item}", self.gain_of[query, item]) for query, item in pairs],
            schema={"query_id": pl.String, "item_id": pl.String, "gain": pl.Float32},
            orient="row",
        )
        return Pairs.of(table, [f"q{n}" for n in range(self.queries)], [f"i{n}" for n in range(self.items)])


def check(qrels: Qrels, plain: Plain) -> None:
    """Everything that judgements can be asked, but for the ideal list."""
    queries, items = range(plain.queries), range(plain.items)
    matrix = [[plain.gain_of.get((query, item), 0.0) for item in items] for query in queries]
    assert qrels.counts().tolist() == [len(plain.of(query)) for query in queries]
    assert qrels.judged().tolist() == [any(item in plain.of(query) for query in queries) for item in items]
    for query in queries:
        assert qrels.relevant_rows(query).tolist() == sorted(plain.of(query))
    asked = np.arange(plain.queries)[::-1]
    listed = [(place, row) for place, query in enumerate(asked.tolist()) for row in sorted(plain.of(query))]
    assert list(zip(*(one.tolist() for one in qrels.list_relevant(asked)), strict=True)) == listed
    for start in queries:
        for stop in range(start, plain.queries + 1):
            assert qrels.relevant(start, stop).tolist() == [[gain > 0 for gain in row] for row in matrix[start:stop]]
            rows = [(query, item, gain) for query in range(start, stop) for item, gain in plain.of(query).items()]
            assert qrels.pairs(start, stop).rows() == rows
        lists = np.array([[(3 * n + query) % plain.items for n in range(4)] for query in queries])[start:]
        gains = qrels.gains(start, lists)
        assert gains.dtype == np.float32
        wanted = [[matrix[query][item] for item in row] for query, row in enumerate(lists.tolist(), start)]
        assert gains.tolist() == wanted


def check_ideal(qrels: Qrels, plain: Plain, depth: int) -> None:
    ideal = qrels.ideal(depth)
    best = [sorted(plain.of(query).values(), reverse=True)[:depth] for query in range(plain.queries)]
    if ideal is None:
        assert all(gain == 1 for own in best for gain in own)
    else:
        assert ideal.tolist() == [[*own, *[0.0] * (depth - len(own))] for own in best]


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Groups, Plain]:
    query_groups = draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
    item_groups = draw(st.lists(st.integers(0, 3), min_size=1, max_size=7))
    asked = len(query_groups)
    own = draw(st.none() | st.lists(st.integers(-1, len(item_groups) - 1), min_size=asked, max_size=asked))
    gain_of = {
        (query, item): 1.0
        for query, wanted in enumerate(query_groups)
        for item, group in enumerate(item_groups)
        if group == wanted and (own is None or own[query] != item)
    }
    groups = Groups(np.array(query_groups), np.array(item_groups), None if own is None else np.array(own))
    return groups, Plain(asked, len(item_groups), gain_of)


@st.composite
def graded(draw: st.DrawFn) -> Plain:
    queries, items = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    pair = st.tuples(st.integers(0, queries - 1), st.integers(0, items - 1))
    return Plain(queries, items, draw(st.dictionaries(pair, st.sampled_from([0.5, 1.0, 2.0, 3.0]), max_size=20)))


@given(grouped())
def test_groups_are_what_a_plain_list_of_pairs_says(made: tuple[Groups, Plain]) -> None:
    groups, plain = made
    check(groups, plain)
    check_ideal(groups, plain, 3)


@given(graded())
def test_pairs_are_what_a_plain_list_of_pairs_says(plain: Plain) -> None:
    pairs = plain.listed()
    assert len(pairs) == plain.queries
    check(pairs, plain)
    for depth in (1, 3, 8):
        check_ideal(pairs, plain, depth)


@given(grouped())
def test_groups_written_as_pairs_give_the_same_everywhere(made: tuple[Groups, Plain]) -> None:
    groups, plain = made
    pairs = plain.listed()
    check(pairs, plain)
    assert pairs.pairs(0, plain.queries).equals(groups.pairs(0, plain.queries))
    assert pairs.judged().tolist() == groups.judged().tolist()
    best = pairs.ideal(4)
    assert set(np.unique(best)) <= {0.0, 1.0}
    assert best.sum(axis=1).tolist() == np.minimum(groups.counts(), 4).tolist()


@given(grouped(), graded(), st.randoms(use_true_random=False))
def test_over_some_items_in_any_order_they_are_the_same_judgements(
    made: tuple[Groups, Plain], plain: Plain, chance: Any
) -> None:
    for qrels, whole in (made, (plain.listed(), plain)):
        rows = chance.sample(range(whole.items), chance.randint(1, whole.items))
        check(qrels.among(np.array(rows)), whole.among(rows))


def test_an_item_that_only_the_query_itself_shares_a_group_with_is_a_distractor() -> None:
    lonely = Groups(np.array([0, 1, 1]), np.array([0, 1, 1]), np.arange(3))
    assert lonely.judged().tolist() == [False, True, True]


def test_a_query_of_a_group_that_no_item_has_finds_nothing() -> None:
    groups = Groups(np.array([5, 0]), np.array([0, 0]))
    assert groups.relevant_rows(0).tolist() == []
    assert groups.counts().tolist() == [0, 2]


def table(*pairs: tuple[str, str, float]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema={"query_id": pl.String, "item_id": pl.String, "gain": pl.Float32}, orient="row")


def test_a_list_without_pairs_is_a_list() -> None:
    none = Pairs.of(table(), QUERIES, ITEMS)
    assert none.counts().tolist() == [0, 0, 0]
    assert none.pairs(0, 3).is_empty()
    assert not none.judged().any()


def test_pairs_stand_by_query_and_item_whatever_their_order() -> None:
    pairs = Pairs.of(table(("q2", "d", 1), ("q0", "c", 2), ("q2", "a", 3), ("q0", "a", 1)), QUERIES, ITEMS)
    assert pairs.pairs(0, 3).rows() == [(0, 0, 1.0), (0, 2, 2.0), (2, 0, 3.0), (2, 3, 1.0)]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("q0", "a", 1), ("q9", "b", 1)], r"qrels: query_id 'q9' is not one of the task's 3"),
        ([("q0", "a", 1), ("q1", "z", 1)], r"qrels: item_id 'z' is not one of the task's 4"),
        ([("q0", "a", 1), ("q1", "b", 1), ("q0", "a", 2)], r"qrels: the pair \('q0', 'a'\) is listed twice"),
        ([("q0", "a", 1), ("q1", "a", 0)], r"a gain is 0; only relevant pairs are listed, by gains above 0"),
        ([("q0", "a", -0.5)], r"a gain is -0.5; only relevant pairs are listed"),
        ([("q0", "a", float("nan"))], r"a gain is nan; only relevant pairs are listed"),
        ([("q0", "a", float("inf"))], r"a gain is inf; only relevant pairs are listed"),
    ],
)
def test_pairs_that_say_nothing_certain_are_refused(pairs: list[tuple[str, str, float]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Pairs.of(table(*pairs), QUERIES, ITEMS)


def test_the_judgements_of_some_queries_are_those_of_all_from_the_first_on() -> None:
    groups = Groups(np.array([0, 1, 0]), np.array([0, 0, 1, 2]), np.array([1, -1, 0]))
    pairs = Plain(3, 4, {(0, 0): 1.0, (1, 2): 2.0, (2, 1): 1.0, (2, 3): 0.5}).listed()
    every: tuple[Qrels, ...] = groups, pairs
    for qrels in every:
        for start, stop in ((0, 3), (1, 3), (1, 2), (2, 2)):
            some = qrels.between(start, stop)
            assert some.relevant(0, stop - start).tolist() == qrels.relevant(start, stop).tolist()
            assert some.counts().tolist() == qrels.counts()[start:stop].tolist()
            lists = np.tile(np.arange(4), (stop - start, 1))
            assert some.gains(0, lists).tolist() == qrels.gains(start, lists).tolist()
