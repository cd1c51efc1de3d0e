"""What stays in memory of the queries that strangers type."""

from __future__ import annotations

from types import SimpleNamespace

from twinlens.indexing.query_encoder import WORDS_KEPT, _forget_words


def test_a_tokenizer_that_keeps_every_word_forgets_all_but_the_first() -> None:
    special = {"<start_of_text>": "<start_of_text>", "<end_of_text>": "<end_of_text>"}
    encoder = SimpleNamespace(tokenizer=SimpleNamespace(cache=dict(special)))
    cache = encoder.tokenizer.cache
    most = 0
    for number in range(5 * WORDS_KEPT):
        cache[f"word{number}"] = "w o r d"
        _forget_words(encoder)
        most = max(most, len(cache))
    assert most == WORDS_KEPT  # looked at after each query
    assert dict(list(cache.items())[:2]) == special


def test_a_tokenizer_that_keeps_none_is_left_alone() -> None:
    _forget_words(SimpleNamespace(tokenizer=object()))
    _forget_words(object())
