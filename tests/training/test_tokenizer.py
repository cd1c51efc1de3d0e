"""The small tokenizer: it knows the words it was shown, whatever their script, and nothing depends on their order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from twinlens.training.tokenizer import END, PAD, START, UNKNOWN, learn_tokenizer

TEXTS = ["A red car, in the snow!", "a dog", "two dogs on a beach", "A DOG'S life"]
SPECIAL = {PAD, UNKNOWN, START, END}
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
MANY_SCRIPTS = [
    "हिन्दी में कुत्ता",  # vowel signs belong to their word
    "كَلْبٌ أسود على الثلج",  # right to left, with vowels
    "כֶּלֶב שחור",
    "ไทย น้ำ",
    "一只狗在海滩上",
    "ΟΔΟΣ ΣΚΎΛΟΣ",  # a sigma that ends a word
    "İstanbul'da köpek",
    "cafe\u0301 NAÏVE",  # an accent that is a character of its own
    "👩‍👩‍👧 ❤️ 🇩🇪 a 🐶🐶",
    "5 km² ½ x₁",
]


def read(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The words that a tokenizer sees in a text."""
    numbers: list[int] = tokenizer(text).input_ids
    words: list[str] = tokenizer.convert_ids_to_tokens(numbers)
    return words


def test_a_text_is_read_as_lower_case_words_between_start_and_end() -> None:
    tokenizer = learn_tokenizer(TEXTS)
    assert read(tokenizer, "A red car, in the snow!") == [
        START, "a", "red", "car", ",", "in", "the", "snow", "!", END,
    ]  # fmt: skip
    assert read(tokenizer, "  a\tDOG's\n") == [START, "a", "dog", "'", "s", END]


def test_a_text_without_words_is_its_start_and_end() -> None:
    assert read(learn_tokenizer(TEXTS), " \n ") == [START, END]


def test_a_word_that_was_not_shown_is_unknown_and_its_neighbours_are_not() -> None:
    assert read(learn_tokenizer(TEXTS), "a zebra on a beach") == [START, "a", UNKNOWN, "on", "a", "beach", END]


def test_the_end_token_has_the_highest_number_and_padding_the_lowest() -> None:
    tokenizer = learn_tokenizer([*TEXTS, "zzz 🐶 \U0010ffff"])
    assert tokenizer.eos_token_id == max(tokenizer.get_vocab().values()) == len(tokenizer) - 1
    assert tokenizer.pad_token_id == 0
    assert tokenizer.convert_tokens_to_ids([PAD, UNKNOWN, START, END]) == [0, 1, 2, len(tokenizer) - 1]
    assert (tokenizer.bos_token, tokenizer.eos_token) == (START, END)


def test_numbers_are_used_once_and_none_is_left_out() -> None:
    tokenizer = learn_tokenizer(TEXTS)
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_a_batch_is_padded_after_the_words_and_a_text_that_is_cut_still_ends() -> None:
    tokenizer = learn_tokenizer(TEXTS)
    batch = tokenizer(["a dog", "two dogs on a beach"], padding="longest", truncation=True, max_length=5).input_ids
    assert [tokenizer.convert_ids_to_tokens(numbers) for numbers in batch] == [
        [START, "a", "dog", END, PAD],
        [START, "two", "dogs", "on", END],
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_the_texts_changes_no_number(seed: int) -> None:
    shuffled = TEXTS * 2
    random.Random(seed).shuffle(shuffled)
    assert learn_tokenizer(shuffled).get_vocab() == learn_tokenizer(TEXTS * 2).get_vocab()


def test_the_commonest_words_are_kept_and_among_equals_the_first_of_the_alphabet() -> None:
    texts = ["dog cat dog", "bird dog cat", "ant cow bee"]
    assert set(learn_tokenizer(texts, max_words=4).get_vocab()) - SPECIAL == {"dog", "cat", "ant", "bee"}
    assert read(learn_tokenizer(texts, max_words=1), "dog cat") == [START, "dog", UNKNOWN, END]
    assert len(learn_tokenizer(texts, max_words=100)) == 4 + 6


def test_texts_may_come_from_a_generator() -> None:
    assert learn_tokenizer(text for text in TEXTS).get_vocab() == learn_tokenizer(TEXTS).get_vocab()


# ---------------------------------------------------------------- any script


@pytest.mark.parametrize("text", MANY_SCRIPTS)
def test_every_word_that_was_shown_is_known_in_any_script(text: str) -> None:
    words = read(learn_tokenizer([text]), text)
    assert UNKNOWN not in words
    assert len(words) > 2


def test_right_to_left_words_stay_whole() -> None:
    assert read(learn_tokenizer(MANY_SCRIPTS), "كَلْبٌ שחור") == [START, "كَلْبٌ", "שחור", END]


def test_emoji_are_words() -> None:
    tokenizer = learn_tokenizer(["a dog 🐶", "hearts ❤️❤️"])
    assert read(tokenizer, "🐶 a dog") == [START, "🐶", "a", "dog", END]
    assert read(tokenizer, "a 🐱") == [START, "a", UNKNOWN, END]


@given(st.lists(ANY_TEXT, max_size=5))
def test_no_text_holds_a_word_that_is_unknown_to_the_tokenizer_that_was_shown_it(texts: list[str]) -> None:
    tokenizer = learn_tokenizer(texts)
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    for text in texts:
        assert UNKNOWN not in read(tokenizer, text)


@pytest.mark.parametrize("special", [PAD, UNKNOWN, START, END])
def test_a_text_that_spells_out_a_special_token_means_the_characters(special: str, tmp_path: Path) -> None:
    text = f"a {special} dog"
    first = learn_tokenizer([text])
    first.save_pretrained(tmp_path)
    for tokenizer in (first, AutoTokenizer.from_pretrained(tmp_path)):
        assert read(tokenizer, text) == [START, "a", "<", special[1:-1], ">", "dog", END]


# ---------------------------------------------------------------- files


def test_a_tokenizer_that_was_saved_reads_as_before(tmp_path: Path) -> None:
    first = learn_tokenizer([*TEXTS, *MANY_SCRIPTS])
    first.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS, *MANY_SCRIPTS, "a zebra"]
    assert again(texts).input_ids == first(texts).input_ids
    assert again.get_vocab() == first.get_vocab()
    assert again.all_special_ids == first.all_special_ids
    names = ("pad_token_id", "unk_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")
    assert [getattr(again, name) for name in names] == [getattr(first, name) for name in names]


def test_special_tokens_are_left_out_of_words_when_asked(tmp_path: Path) -> None:
    first = learn_tokenizer(TEXTS)
    first.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    numbers = first(["a dog", "two dogs on a beach"], padding="longest").input_ids
    for tokenizer in (first, again):
        assert tokenizer.batch_decode(numbers, skip_special_tokens=True) == ["a dog", "two dogs on a beach"]
