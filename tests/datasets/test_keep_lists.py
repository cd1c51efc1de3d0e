"""Lists that `keep` names: recorded by `download`, read from the copies, refused when they changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from twinlens.config.datasets import Keep
from twinlens.core.errors import DataError, FetchError
from twinlens.datasets import keep_lists

ROWS = b"query_id,document_id,relevance\nq1,a.jpg,1\nq2,b.jpg,1\n"


@pytest.fixture
def qrels(tmp_path: Path) -> Path:
    (tmp_path / "qrels.csv").write_bytes(ROWS)
    return tmp_path / "qrels.csv"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def test_a_list_is_copied_with_its_digest_and_read_where_the_file_is_not(qrels: Path, raw: Path) -> None:
    keep = Keep(from_qrels=str(qrels), published=str(qrels))
    keep_lists.refuse_unreadable(keep)
    keep_lists.record(keep, raw)
    notes = json.loads((raw / "lists.json").read_text())
    digest = hashlib.sha256(ROWS).hexdigest()
    assert notes["from_qrels"] == {"file": "lists/from_qrels.csv", "bytes": len(ROWS), "sha256": digest}
    qrels.unlink()
    assert keep_lists.read_recorded(keep, raw, "mine") == {"from_qrels": {"a", "b"}, "published": {"a", "b"}}


def test_a_list_named_by_a_variable_that_is_not_set_here_is_read_from_the_copy(
    qrels: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTS_HERE", str(qrels.parent))
    keep = Keep(from_qrels="$LISTS_HERE/qrels.csv")
    keep_lists.record(keep, raw)
    monkeypatch.delenv("LISTS_HERE")
    assert keep_lists.read_recorded(keep, raw, "mine") == {"from_qrels": {"a", "b"}}


def test_a_list_that_changed_is_refused_with_the_way_to_take_it(qrels: Path, raw: Path) -> None:
    keep = Keep(from_qrels=str(qrels))
    keep_lists.record(keep, raw)
    qrels.write_bytes(ROWS.replace(b"b.jpg", b"c.jpg"))  # as long as before
    with pytest.raises(DataError, match=r"has SHA-256 .*recorded was .*: `dvc repro -f -s download@mine`, then `dvc "):
        keep_lists.read_recorded(keep, raw, "mine")
    keep_lists.record(keep, raw)
    assert keep_lists.read_recorded(keep, raw, "mine") == {"from_qrels": {"a", "c"}}


def test_a_list_that_was_never_recorded_is_refused(qrels: Path, raw: Path) -> None:
    with pytest.raises(DataError, match="was not recorded by `download`; record it"):
        keep_lists.read_recorded(Keep(from_qrels=str(qrels)), raw, "mine")


def test_a_card_without_lists_leaves_no_trace(raw: Path) -> None:
    for keep in (None, Keep(labels=["car"])):
        keep_lists.refuse_unreadable(keep)
        keep_lists.record(keep, raw)
    assert list(raw.iterdir()) == []
    assert keep_lists.read_recorded(Keep(labels=["car"]), raw, "mine") == {}


def test_a_list_that_is_not_there_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"qrels\.csv is not there: the dataset's card names it under `keep`"):
        keep_lists.refuse_unreadable(Keep(from_qrels=str(tmp_path / "qrels.csv")))
