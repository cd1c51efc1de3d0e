"""Word vectors as a text tower: which words of a text are read, how they are pooled, what the unknown get."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tests.tiny import CPU
from twinlens.config.models import ModelCard, WordVectorsTower
from twinlens.config.params import ComputeParams
from twinlens.core.costs import Cost
from twinlens.core.device import Placement
from twinlens.core.errors import DataError, FetchError, ParamsError
from twinlens.inference.probe import measure_last_word
from twinlens.inference.tower import TowerJob
from twinlens.models import encoders
from twinlens.models.encoders.word_vectors import WordVectors

WORDS = [
    "dog",
    "cat",
    "Dog",
    "t-shirt",
    "t",
    "shirt",
    "don't",
    "don",
    "3.5",
    "5",
    "лыжи",
    "नमस्ते",
    "two",
    "red",
    "car",
    "snow",
]
RNG = np.random.default_rng(0)
VECTORS = {word: RNG.normal(size=6).astype(np.float32).round(3) for word in WORDS}
COMPUTE = ComputeParams(device="cpu", decode_threads=1, image_batch=None, text_batch=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    lines = [f"{word} {' '.join(map(str, vector))}" for word, vector in VECTORS.items()]
    path = tmp_path / "words.vec"
    path.write_text(f"{len(lines)} 6\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def card(path: Path, **fields: Any) -> WordVectorsTower:
    return WordVectorsTower(word_vectors=str(path), **fields)


def load(tower: WordVectorsTower) -> WordVectors:
    text = encoders.load(tower, encoders.locate(tower), CPU).text
    assert isinstance(text, WordVectors)
    return text


def mean(*words: str) -> torch.Tensor:
    return torch.from_numpy(np.mean([VECTORS[word] for word in words], axis=0, dtype=np.float32))


def test_a_text_is_the_mean_of_its_words_and_unknown_ones_do_not_count(path: Path) -> None:
    found = load(card(path)).encode(["two red zebras, dog!", "dog dog cat"])
    assert torch.allclose(found[0], mean("two", "red", "dog"), atol=1e-6)
    assert torch.allclose(found[1], mean("dog", "dog", "cat"), atol=1e-6)
    assert found.dtype == torch.float32


def test_the_sum_is_the_mean_times_the_number_of_words(path: Path) -> None:
    texts = ["two red zebras, dog!", "cat"]
    summed, averaged = (load(card(path, pooling=pooling)).encode(texts) for pooling in ("sum", "mean"))
    assert torch.allclose(summed, averaged * torch.tensor([[3.0], [1.0]]), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Dog", ["dog"]),
        ("a T-shirt", ["t-shirt"]),  # whole where the file has it
        ("a red-dog", ["red", "dog"]),  # in pieces where it does not
        ("don\u2019t", ["don't"]),
        ("don's", ["don"]),
        ("3.5 5 7", ["3.5", "5"]),
        ("(ЛЫЖИ)", ["лыжи"]),
        ("नमस्ते!", ["नमस्ते"]),  # its vowel signs are no letters, but belong to it
        ("dog.cat/snow", ["dog", "cat", "snow"]),
        ("dog\N{ZERO WIDTH SPACE}\n\tcat", ["dog", "cat"]),
    ],
)
def test_which_words_a_text_has(text: str, words: list[str], path: Path) -> None:
    tower = load(card(path))
    names = {row: word for word, row in tower.rows.items()}
    assert [names[int(row)] for row in tower.lookup([text])[0] if row] == words
    assert tower.token_counts([text]) == [len(words)]


def test_letters_keep_their_case_where_the_card_says_so(path: Path) -> None:
    assert torch.equal(load(card(path, lowercase=False)).encode(["Dog"])[0], mean("Dog"))
    assert torch.equal(load(card(path)).encode(["Dog"])[0], mean("dog"))


def test_a_text_without_a_known_word_gets_the_mean_of_all_words(path: Path) -> None:
    found = load(card(path)).encode(["zebra", "", "!?", "dog"])
    assert torch.allclose(found[:3], mean(*WORDS).expand(3, -1), atol=1e-6)
    assert torch.equal(found[3], mean("dog"))


def test_words_come_by_row_for_a_head_that_reads_them_in_order(path: Path) -> None:
    tower = load(card(path, pooling="none", max_words=4))
    rows = tower.lookup(["cat and dog", "", "dog cat dog cat snow"])
    dog, cat = tower.rows["dog"], tower.rows["cat"]
    assert rows.tolist() == [[cat, dog, 0, 0], [0, 0, 0, 0], [dog, cat, dog, cat]]
    assert rows.dtype == torch.int64
    assert tower.table.shape == (len(WORDS) + 1, 6)
    assert not tower.table[0].any()
    assert torch.equal(tower.table[rows[0, 0]], mean("cat"))
    assert tower.parameters == len(WORDS) * 6


def test_words_that_stay_apart_are_no_vector_of_a_text(path: Path) -> None:
    with pytest.raises(ParamsError, match="`pooling: none` leaves a text's words apart"):
        load(card(path, pooling="none")).encode(["dog"])
    with pytest.raises(ValueError, match="train such a head"):
        ModelCard(text=card(path, pooling="none"))
    ModelCard(text=card(path, pooling="sum"))


def test_known_words_over_the_limit_are_cut_and_counted(path: Path) -> None:
    tower = load(card(path, max_words=2))
    text = "zebra dog zebra cat snow"
    assert (tower.max_tokens, tower.token_counts([text])) == (2, [3])
    assert torch.allclose(tower.encode([text])[0], mean("dog", "cat"), atol=1e-6)


def test_a_vector_does_not_depend_on_what_shares_its_batch_to_the_last_digit(path: Path) -> None:
    tower = load(card(path))
    texts = ["two red dog", "cat", "zebra", "snow red car dog cat two shirt " * 9]
    assert torch.equal(tower.encode(texts), torch.cat([tower.encode([text]) for text in texts]))


def test_the_gate_on_the_last_word_is_not_tripped_by_a_word_that_has_no_vector(path: Path) -> None:
    tower = load(card(path))
    assert np.isnan(measure_last_word(tower, ["two red cars, zebra", "red ."]))
    assert measure_last_word(tower, ["two red car snow zebra", "red dog"]) > 1e-3


def captions(texts: list[str]) -> pl.DataFrame:
    ids = [f"{i}" for i in range(len(texts))]
    return pl.DataFrame({"id": ids, "image_id": ids, "text": texts})


def embedded(tower: WordVectorsTower, texts: list[str], out: Path) -> tuple[TowerJob, np.ndarray]:
    job = TowerJob(tower, encoders.locate(tower), CPU, COMPUTE, Cost())
    out.mkdir(exist_ok=True)
    job.texts("caption", captions(texts), out)
    return job, np.load(out / "caption.npy")


def test_texts_are_embedded_to_unit_vectors_and_those_without_a_known_word_are_counted_and_told(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["a red car", "zebra", "two cats", "quagga okapi", "dog snow"]
    with caplog.at_level("WARNING", logger="twinlens"):
        job, vectors = embedded(card(path), texts, tmp_path / "out")
    assert "caption: 2 of 5 texts hold no word that the tower knows; they all get the same vector" in caplog.text
    assert job.cost.parts["caption"]["unknown"] == 2
    wanted = torch.nn.functional.normalize(torch.stack([mean("red", "car"), mean(*WORDS), mean("two")]), dim=1)
    assert np.abs(vectors[:3] - wanted.numpy()).max() < 1e-6
    caplog.clear()
    known, _ = embedded(card(path), ["a red car", "dog"], tmp_path / "known")
    assert not caplog.text
    assert "unknown" not in known.cost.parts["caption"]


def test_a_copy_of_the_file_elsewhere_loads_nothing_and_another_card_does(path: Path, tmp_path: Path) -> None:
    texts = ["Dog", "a red car"]
    _, wanted = embedded(card(path), texts, tmp_path / "first")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    copy = folder / path.name
    copy.write_bytes(path.read_bytes())
    again, found = embedded(card(copy), texts, tmp_path / "second")
    assert "loaded" not in vars(again.worker)
    assert np.array_equal(found, wanted)
    cased, other = embedded(card(path, lowercase=False), texts, tmp_path / "third")
    assert "loaded" in vars(cased.worker)
    assert np.abs(other - wanted).max() > 0.01


def test_half_precision_on_a_device_changes_nothing(path: Path) -> None:
    tower = card(path)
    half = encoders.load(tower, path, Placement(torch.device("cpu"), torch.bfloat16)).text
    assert half is not None
    assert torch.equal(half.encode(["two red dog"]), load(tower).encode(["two red dog"]))


def test_the_path_may_hold_a_variable_and_the_digest_is_checked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECTORS", str(path.parent))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert encoders.locate(WordVectorsTower(word_vectors="$VECTORS/words.vec", sha256=digest)) == path
    with pytest.raises(DataError, match=f"has SHA-256 {digest}, the card says {'0' * 64}"):
        encoders.locate(card(path, sha256="0" * 64))
    with pytest.raises(FetchError, match="the environment variable NOT_SET is not set"):
        encoders.locate(WordVectorsTower(word_vectors="$NOT_SET/words.vec"))
    with pytest.raises(FetchError, match="is not there"):
        encoders.locate(card(path.with_name("other.vec")))


def test_a_packed_file_has_the_same_vectors(path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "words.vec.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert torch.equal(load(card(packed)).encode(["two red dog"]), load(card(path)).encode(["two red dog"]))
