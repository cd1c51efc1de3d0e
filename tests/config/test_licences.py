"""Licences by their names, and facts of models that are sorted by them."""

from __future__ import annotations

import pytest

from twinlens.config.facts import format_count, parse_count
from twinlens.config.licences import classify_all, classify_licence
from twinlens.core.errors import ParamsError


@pytest.mark.parametrize(
    ("licence", "use"),
    [
        ("MIT", "permissive"),
        ("Apache-2.0", "permissive"),
        ("BSD-3-Clause", "permissive"),
        ("CC-BY-NC-4.0", "non-commercial"),
        ("cc-by-nc-sa-4.0", "non-commercial"),
        ("apple-amlr", "non-commercial"),
        ("dinov3-license", "other"),
        ("gemma", "other"),
        ("CC-BY-SA-3.0", "other"),
        ("a licence of advances in science", "other"),  # `nc` within a word is none
    ],
)
def test_a_licence_is_classified_by_its_name(licence: str, use: str) -> None:
    assert classify_licence(licence) == use


def test_the_strictest_of_several_licences_counts_and_one_that_is_not_known_is_no_permission() -> None:
    assert classify_all(["MIT", "Apache-2.0"]) == "permissive"
    assert classify_all(["MIT", None]) == "other"
    assert classify_all(["MIT", "CC-BY-NC-4.0"]) == "non-commercial"
    assert classify_all([]) == "other"


def test_numbers_of_parameters_are_read_and_written_in_units() -> None:
    assert [parse_count(text) for text in ("500M", "1.5B", "300k", "42", "2g")] == [500e6, 1.5e9, 300e3, 42, 2e9]
    assert [format_count(count) for count in (151_277_313, 2_223_872, 1_136_039_602, None)] == [
        *("151 M", "2.2 M", "1.14 B", "-")
    ]
    with pytest.raises(ParamsError, match="write 500M"):
        parse_count("-3M")
