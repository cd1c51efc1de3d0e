"""Files of word vectors: both formats, what is odd about real ones, and every fault named with its line."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from twinlens.core.errors import DataError
from twinlens.models.encoders import word_table
from twinlens.models.encoders.word_table import read_words

VEC = "4 3\ndog 1 0 0.5 \ncat 0 1 -2e-1 \nDog 0.25 0.5 1 \n3.5 1 1 1 \n"


def write(content: str | bytes, folder: Path, name: str = "words.vec") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def found(path: Path) -> dict[str, list[float]]:
    words = read_words(path)
    assert words.table.dtype == np.float32
    assert not words.table[0].any()
    return {word: words.table[row].tolist() for word, row in words.rows.items()}


def test_a_vec_file_of_fasttext(tmp_path: Path) -> None:
    words = found(write(VEC, tmp_path))
    assert list(words) == ["dog", "cat", "Dog", "3.5"]
    assert words["cat"] == pytest.approx([0, 1, -0.2])
    assert words["Dog"] == [0.25, 0.5, 1]


def test_a_txt_file_of_glove_has_no_first_line_of_counts(tmp_path: Path) -> None:
    assert found(write(VEC.split("\n", 1)[1], tmp_path, "glove.txt")) == found(write(VEC, tmp_path))


def test_a_file_compressed_by_gzip_whatever_its_name(tmp_path: Path) -> None:
    assert found(write(gzip.compress(VEC.encode()), tmp_path, "packed")) == found(write(VEC, tmp_path))


@pytest.mark.parametrize("block", [1, 40, 1 << 20])
def test_the_size_of_blocks_decides_nothing(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_table, "BLOCK_BYTES", block)
    content = "\n".join(f"w{i} {i} 0.5 -{i}.25" for i in range(1, 60))
    words = found(write(content, tmp_path, "glove.txt"))
    assert words == {f"w{i}": [i, 0.5, -(i + 0.25)] for i in range(1, 60)}


def test_words_with_blanks_and_beyond_ascii_line_ends_of_windows_and_tabs(tmp_path: Path) -> None:
    content = (
        ". . . 1 2 3\r\nat name@domain.com 4 5 6\nлыжи 7 8 9\n\u00a0 1 0 1\na\u2028b 0 1 1\ntab\t1\t2\t4\nlast 3 3  4"
    )
    words = found(write(content, tmp_path, "glove.txt"))
    assert list(words) == [". . .", "at name@domain.com", "лыжи", "\u00a0", "a\u2028b", "tab", "last"]
    assert (words["at name@domain.com"], words["tab"], words["last"]) == ([4, 5, 6], [1, 2, 4], [3, 3, 4])


def test_the_first_of_two_vectors_counts_a_zero_vector_does_not_and_both_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="twinlens"):
        words = found(write("a 1 2\n</s> 0 0\na 3 4\nb 5 6\na 7 8\n", tmp_path, "glove.txt"))
    assert words == {"a": [1, 2], "b": [5, 6]}
    assert "2 words stand there again (the first counts), 1 have a zero vector (left out)" in caplog.text


def test_the_mean_is_of_the_words_that_count(tmp_path: Path) -> None:
    words = read_words(write("a 1 2\n</s> 0 0\na 3 4\nb 5 6\n", tmp_path, "glove.txt"))
    assert words.mean.tolist() == [3, 4]


def test_a_file_is_read_once_and_again_when_its_content_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = found(write(VEC, tmp_path))
    monkeypatch.setattr(word_table, "_parse", lambda *_: pytest.fail("it was read again"))
    assert found(write(VEC, tmp_path, "a copy.vec")) == words
    monkeypatch.undo()
    monkeypatch.setenv("TWINLENS_SCRATCH", str(tmp_path / "scratch"))
    assert found(write(VEC.replace("dog", "cow"), tmp_path))["cow"] == words["dog"]


def test_changing_the_table_changes_nothing_that_is_kept(tmp_path: Path) -> None:
    path = write(VEC, tmp_path)
    read_words(path).table[1] = 9
    assert found(path)["dog"] == [1, 0, 0.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("2 3\ndog 1 2 3\ncat 1 2\n", r"line 3: it has 2 numbers after its word, wanted 3"),
        ("2 3\ndog 1 2 3 4\ncat 1 2 3\n", r"line 2: numbers stand in its word, wanted a word and 3 numbers"),
        ("dog 1 2 3cat 1 2 3\n", r"line 1: numbers stand in its word, wanted a word and 3 numbers"),
        ("cow 1 2 3\ndog 1 2 3cat 1 2 3\n", r"line 2: numbers stand in its word"),
        ("dog 1 2 3\ncat 1 x 3\n", r"line 2: 'x' stands where a finite number should"),
        ("dog 1 2 3\ncat 1 nan 3\n", r"line 2: 'nan' stands where a finite number should"),
        ("dog 1 2 3\ncat 1 -inf 3\n", r"line 2: '-inf' stands where a finite number should"),
        ("dog 1 2 3\ncat 1 1e99 3\n", r"line 2: '1e99' stands where a finite number should"),
        ("dog 1 2 3\ncat 1  3\n", r"line 2: it has 2 numbers after its word, wanted 3"),
        ("dog 1 2 3\nblack cat 1 3\n", r"line 2: 'cat' stands where a finite number should"),
        ("dog 1 2 3\n\ncat 1 2 3\n", r"line 2: it has 0 numbers"),
        ("dog 1 2 3\n 1 2 3\n", r"line 2: it begins with a blank, so there is no word"),
        (b"dog 1 2 3\nb\xe4r 1 2 3\n", r"line 2: its word is not UTF-8"),
        ("dog\ncat\n", r"line 1: no numbers follow its word"),
        ("3 3\ndog 1 2 3\ncat 1 2 3\n", r"promises 3 words in its first line and holds 2"),
        ("1 3\ndog 1 2 3\ncat 1 2 3\n", r"promises 1 words in its first line and holds 2"),
        ("2 0\ndog\ncat\n", r"line 1: it promises vectors without numbers"),
        ("", r"holds no word with a vector"),
        ("0 3\n", r"holds no word with a vector"),
        ("dog 0 0\n", r"holds no word with a vector"),
        (b"\xba\x16\x4f\x2f\x0c\0\0\0", r"is fastText's \.bin: take the \.vec"),
        (gzip.compress(VEC.encode() * 50, mtime=0)[:-30], r"is damaged or cut short"),
        (gzip.compress(VEC.encode(), mtime=0)[:-6] + b"\0\0\0\0\0\0", r"is damaged or cut short"),
    ],
)
def test_a_fault_is_refused_with_its_line(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = write(content, tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read_words(path)
    assert str(path) in str(caught.value)


def test_a_line_beyond_the_first_block_is_named_by_its_number_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_table, "BLOCK_BYTES", 50)
    lines = [f"w{i} 1 2" for i in range(1, 40)]
    lines[29] = "w30 1 oops"
    with pytest.raises(DataError, match="line 31: 'oops'"):
        read_words(write("39 2\n" + "\n".join(lines), tmp_path))


def test_a_zip_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "words.vec.zip", "w") as archive:
        archive.writestr("words.vec", VEC)
    with pytest.raises(DataError, match="is a zip archive: unpack it"):
        read_words(tmp_path / "words.vec.zip")
