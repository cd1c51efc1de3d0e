"""Bad input: each is refused with a message that says what is wrong, or cut and said to be."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.tiny import jpegs, photo
from twinlens import search
from twinlens.config.params import ResizeParams
from twinlens.core.errors import QueryError
from twinlens.indexing import validate
from twinlens.indexing.store import RowStore, write_rows
from twinlens.indexing.validate import MAX_WORDS, clean_text, find_rows, read_image

LIMITS = ResizeParams(shortest_side_px=64, min_side_px=16, max_megapixels=1, jpeg_quality=95, images_per_shard=10)
JPEG = jpegs(1)[0]


def refused(**query: Any) -> str:
    with pytest.raises(QueryError) as error:
        search(**query)
    return str(error.value)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("text", [None, "", "  \t\n", "\x00\x07"])
def test_an_empty_query_is_refused(text: str | None) -> None:
    assert refused(text=text).startswith("the query is empty: give words, a picture, or indexed pictures")


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"text": "a", "k": 0}, "k: 0 pictures are wanted"),
        ({"text": "a", "k": 2.5}, "k: 2.5 pictures are wanted; it should be a whole number"),
        ({"text": "a", "k": "5"}, "k: '5' pictures are wanted"),
        ({"text": "a", "image_weight": "a"}, "image_weight: 'a' is not a number from 0 to 1"),
        ({"text": "a", "like": None}, "given by id, one or several; found NoneType"),
        ({"text": "a", "unlike": [["test-00003"]]}, "there is no picture \"['test-00003']\""),
        ({"text": "a", "mode": "hybird"}, "did you mean 'hybrid'"),
        ({"text": "a", "mode": "hybrid", "fusion": "rff"}, "did you mean 'rrf'"),
        ({"text": "a", "image_weight": 1.5}, "image_weight: 1.5 is not a number from 0 to 1"),
        ({"text": "a", "text_weight": float("nan")}, "text_weight: nan is not a number from 0 to 1"),
        ({"text": b"a"}, "should be a string, found bytes"),
        ({"unlike": "test-00003"}, "only what is not wanted is given: add words"),
        ({"like": "test-00003", "unlike": "test-00003"}, "'test-00003' is both liked and disliked"),
        ({"like": "test-0003"}, "did you mean 'test-000"),
        ({"like": "../../params.yaml"}, "there is no picture '../../params.yaml' among the 60 indexed"),
        ({"text": "a", "mode": "exemplar"}, "mode 'exemplar' learns from pictures"),
        ({"text": "a", "like": "test-00003", "mode": "text"}, "searches for words only"),
        ({"like": "test-00003", "mode": "text"}, "searches for words"),
        ({"like": "test-00003", "mode": "hybrid"}, "searches for words: give text"),
        ({"text": "🐶🏖️", "mode": "text"}, "holds no word"),
        ({"text": "a car", "mode": "vector", "model": "pixels"}, "pixels cannot search for words in mode 'vector'"),
        ({"text": "a", "model": "no-such"}, "there is no model 'no-such'"),
        ({"text": "a", "model": 5}, "there is no model '5'"),
        ({"text": "a", "dataset": ["a"]}, "there is no dataset '['a']'"),
        ({"text": "a", "captioner": {"git"}}, "there is no captioner '{'git'}' (did you mean 'git'?"),
        ({"text": "a", "mode": ["text"]}, "there is no mode '['text']'"),
        ({"text": "a", "mode": "x" * 5_000}, f"there is no mode '{'x' * 200}' (known"),
        ({"like": b"test-00003"}, "given by id, one or several; found bytes"),
        ({"text": "a", "unlike": bytearray(b"test-00003")}, "given by id, one or several; found bytearray"),
        ({"image": ""}, "the query's image is empty"),
        ({"image": "x" * 5_000}, f"{'x' * 200} cannot be read: File name too long"),
        ({"image": "x\0y"}, "is not a file"),
    ],
)
def test_what_cannot_be_searched_for_is_refused_with_what_can(query: dict[str, Any], message: str) -> None:
    assert message in refused(**query)


@pytest.mark.usefixtures("root")
def test_ten_thousand_words_are_cut_and_said_to_be() -> None:
    found = search("snow " * 10_000, k=3)
    assert f"the query is cut: {MAX_WORDS} of its 10,000 words are searched for" in found.notes
    assert any(note.startswith("the query is cut: clip-scenes reads 24 of its") for note in found.notes)
    assert len(found.hits) == 3
    assert len(search("snow " * 10_000, mode="text").hits) > 0


def test_a_text_is_cut_by_words_or_by_characters_and_the_note_says_which() -> None:
    assert clean_text("x" * 100_000) == (
        "x" * 4_096,
        ["the query is cut: 4,096 of its 100,000 characters are searched for"],
    )
    words = " ".join(["x" * 99] * 300)
    assert clean_text(words)[1] == ["the query is cut: 4,096 of its 29,999 characters are searched for"]
    assert clean_text("a  b " * 200)[1] == [f"the query is cut: {MAX_WORDS} of its 400 words are searched for"]
    assert clean_text("x" * 4_096) == ("x" * 4_096, [])
    assert clean_text("a " * MAX_WORDS)[1] == []


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    "text",
    [
        "🐶🏖️",
        "كلب على الشاطئ",
        "\u202ereversed\u202c",
        "<b>car</b> & 'x' \" \\",
        "\ud800 car",
        "car\x00boat",
        "* OR (",
        "words:car",
    ],
)
def test_any_characters_are_searched_for_as_they_are(text: str) -> None:
    for mode in ("vector", "hybrid"):
        assert len(search(text, mode=mode, k=4).hits) == 4


@pytest.mark.usefixtures("root")
def test_a_hybrid_without_a_word_is_found_by_vector_and_says_so() -> None:
    found = search("🐶", mode="hybrid", k=5)
    assert [hit.image_id for hit in found.hits] == [hit.image_id for hit in search("🐶", k=5).hits]
    assert "no caption holds any of these words" in found.notes


@pytest.mark.usefixtures("root")
def test_more_than_there_is_gives_all_there_is() -> None:
    assert len(search("car", k=10_000).hits) == 60


def a_png(width: int, height: int) -> bytes:
    """A PNG's header alone: what it claims is enough to refuse it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"just some text, not a picture", "not a picture: starts with b'just some te'"),
        (b"", "empty file"),
        (JPEG[:300], "damaged"),
        (a_png(30_000, 30_000), "30000 x 30000 px: over 1 megapixels"),
        (SVG, "an SVG is a drawing: export it as PNG"),
        (b"\x00" * (64 * 2**20 + 1), "over 64 MB"),
    ],
)
def test_bytes_that_are_no_usable_picture_are_refused(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "query.png"
    path.write_bytes(raw)
    for image in (raw, path, str(path)):
        with pytest.raises(QueryError, match=message.replace("(", r"\(")):
            read_image(image, LIMITS)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.jpg"):
        with pytest.raises(QueryError, match="is not a file"):
            read_image(path, LIMITS)
    with pytest.raises(QueryError, match="a path, bytes or a PIL image, found int"):
        read_image(3, LIMITS)  # type: ignore[arg-type]


def test_an_opened_picture_is_refused_by_its_size_before_it_is_decoded() -> None:
    with Image.open(io.BytesIO(a_png(30_000, 30_000))) as opened, pytest.raises(QueryError, match="over 1 megapixels"):
        read_image(opened, LIMITS)
    with Image.open(io.BytesIO(JPEG[:-200])) as opened, pytest.raises(QueryError, match="cannot be used"):
        read_image(opened, LIMITS)


def test_an_animated_picture_gives_its_first_frame_and_says_so() -> None:
    out = io.BytesIO()
    frames = [Image.fromarray(photo(seed)) for seed in (0, 1)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    assert "the query's image: first of 2 frames" in read_image(out.getvalue(), LIMITS)[1]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "P", "I;16", "F"])
def test_an_opened_picture_is_read_as_its_file_would_be(mode: str) -> None:
    plain = Image.fromarray(photo(3, 96, 64))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(plain.convert("L"), dtype=np.uint16) * 257)
    else:
        picture = plain.convert(mode)
    with Image.open(io.BytesIO(read_image(picture, LIMITS)[0])) as read:
        assert read.size == (96, 64)
        wanted = np.asarray(plain.convert("L"), dtype=float)
        assert np.abs(np.asarray(read.convert("L"), dtype=float) - wanted).mean() < 12  # a palette dithers


def test_a_plain_small_jpeg_keeps_its_bytes_so_that_a_picture_of_the_pool_has_its_own_vector() -> None:
    assert read_image(JPEG, LIMITS) == (JPEG, [])


def stored(folder: Path, ids: list[str], each: int) -> RowStore:
    """A row store of pictures that have nothing but ids, so many a batch."""
    schema = pa.schema([("image_id", pa.string())])
    batches = [pa.record_batch([ids[at : at + each]], schema=schema) for at in range(0, len(ids), each)]
    write_rows(folder, batches, schema)
    return RowStore(folder)


def test_rows_are_without_repeats_in_the_order_given(tmp_path: Path) -> None:
    store = stored(tmp_path, ["a", "b", "c", "d", "e"], 2)
    assert len(store) == 5
    assert find_rows(["e", "a", "e", "c"], store) == [4, 0, 2]
    assert find_rows("b", store) == [1]
    with pytest.raises(QueryError, match="no picture 'zzz' among the 5 indexed: nothing is near it"):
        find_rows(["zzz"], store)
    with pytest.raises(QueryError, match=r"there is no picture '.*ud800' among"):
        find_rows(["a", "\ud800"], store)


def test_ids_of_a_large_pool_are_neither_listed_nor_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "SUGGESTED", 4)
    monkeypatch.delattr(RowStore, "ids")
    store = stored(tmp_path, ["a", "b", "c", "d", "e"], 2)
    assert find_rows((), store) == []
    assert find_rows(["e", "b"], store) == [4, 1]
    with pytest.raises(QueryError, match=r"there is no picture 'zzz' among the 5 indexed$"):
        find_rows(["zzz"], store)
