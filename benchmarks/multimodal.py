"""What our loops add to sentence-transformers' own `encode`: the same models, inputs and batches, side by side.

    python -m benchmarks.multimodal [pictures] [texts] [rounds]

Texts: a BERT of MiniLM's shape (six layers of 384) with random weights and words in pieces; and one of 2 layers of 32,
where whatever is not the model's shows most. Pictures: a tiny Qwen3-VL, for the same reason; both decode the same JPEGs
and read them by the same processor. Ours also counts tokens, checks vectors and keeps parts on the disk. Rounds
alternate; seconds are the processor's, and the median of their ratios is told. Padding is that of the picture tokens.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import simplejpeg
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers.implementations import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, BertTokenizerFast

from benchmarks.paired import alternate, ratio
from tests.multimodal import save_embedder
from tests.tiny import CPU, photo, sizes, write_shards
from twinlens.config.sentence_models import SentenceTransformersTower
from twinlens.core.scratch import Scratch, fingerprint
from twinlens.core.shards import iter_pixels
from twinlens.inference.loop import embed_texts, join_parts
from twinlens.inference.native_loop import embed_native
from twinlens.models import encoders
from twinlens.models.native import count_picture_tokens, measure_padding

PICTURES_A_BATCH, TEXTS_A_BATCH = 16, 64
MINILM: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
}
SHAPES = [(512, 384), (384, 512), (384, 384), (576, 384), (384, 640)]


def draw_texts(count: int) -> list[str]:
    """Sentences as long as captions are, of words that are made of letters by chance, frequent ones more often."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, length)) for length in rng.integers(2, 9, 4000)]
    often = 1.0 / np.arange(1, len(words) + 1)
    return [
        " ".join(rng.choice(words, length, p=often / often.sum())) for length in rng.integers(6, 22, count).tolist()
    ]


def save_text_model(folder: Path, texts: list[str], shape: dict[str, Any]) -> Path:
    """Save a sentence-transformers model of some shape, with random weights and pieces of words learnt from texts."""
    learner = BertWordPieceTokenizer()
    learner.train_from_iterator(texts, vocab_size=8000, show_progress=False)
    words = BertTokenizerFast(vocab=learner.get_vocab(), model_max_length=256)
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(folder / "bert")
    words.save_pretrained(folder / "bert")
    reader = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[reader, Pooling(shape["hidden_size"], "mean")]).save(str(folder / "model"))
    return folder / "model"


def compare(what: str, ours: Callable[[], np.ndarray], theirs: Callable[[], np.ndarray], rounds: int) -> None:
    """Print how far vectors are apart, and the median ratio of processor seconds."""
    apart = np.abs(ours() - theirs()).max()
    taken = alternate({"ours": ours, "theirs": theirs}, rounds, clock=time.process_time)
    each = sorted(a / b for a, b in zip(taken["ours"], taken["theirs"], strict=True))
    print(f"{what}: {ratio(taken, 'ours', 'theirs'):.3f} of the library's time", end=" ")
    print(f"({each[0]:.3f} to {each[-1]:.3f}); vectors differ by {apart:.1e} at most")


def compare_texts(room: Path, name: str, shape: dict[str, Any], texts: list[str], rounds: int) -> None:
    """Both ways of embedding texts by a model of some shape."""
    folder = save_text_model(room / name, texts, shape)
    encoder = encoders.load(SentenceTransformersTower(sentence_transformers="x", checkpoint=str(folder)), folder, CPU)
    assert encoder.text is not None
    text, model = encoder.text, SentenceTransformer(str(folder), device="cpu")
    ids = [str(number) for number in range(len(texts))]
    made = iter(range(1_000_000))

    def ours() -> np.ndarray:
        with Scratch("benchmark", fingerprint(room=str(room), name=name, number=next(made))) as scratch:
            embed_texts(text, texts, ids, scratch, CPU, batch=TEXTS_A_BATCH)
            return join_parts(scratch)

    def theirs() -> np.ndarray:
        return model.encode(texts, prompt="", batch_size=TEXTS_A_BATCH, show_progress_bar=False)

    compare(f"{len(texts)} texts, {name}", ours, theirs, rounds)


def compare_pictures(room: Path, count: int, rounds: int) -> None:
    """Both ways of embedding pictures at their own size, and the share of padding."""
    folder = save_embedder(room / "model")
    sides = np.random.default_rng(0).choice(SHAPES, count)
    files = [simplejpeg.encode_jpeg(photo(seed, int(w), int(h))) for seed, (w, h) in enumerate(sides)]
    rows = write_shards(files, room / "shards", per_shard=1000).with_columns(pl.col("image_id").alias("id"))
    tower = SentenceTransformersTower(sentence_transformers="tiny", checkpoint=str(folder))
    encoder = encoders.load(tower, folder, CPU).native
    assert encoder is not None
    model = SentenceTransformer(str(folder), device="cpu")
    made = iter(range(1_000_000))

    def ours() -> np.ndarray:
        with Scratch("benchmark", fingerprint(room=str(room), number=next(made))) as scratch:
            embed_native(encoder, room / "shards", rows, scratch, CPU, batch=PICTURES_A_BATCH, read_threads=1)
            return join_parts(scratch)

    def theirs() -> np.ndarray:
        jpegs = (jpeg for _, jpeg in iter_pixels(room / "shards", rows))
        pictures = [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in jpegs]
        return model.encode(pictures, prompt="", batch_size=PICTURES_A_BATCH, show_progress_bar=False)

    compare(f"{count} pictures", ours, theirs, rounds)
    lengths = count_picture_tokens(model.processor, [(int(h), int(w)) for w, h in sides])
    print(f"padding {measure_padding(np.sort(lengths)[::-1], PICTURES_A_BATCH):.1%}", end=", ")
    print(f"unsorted {measure_padding(lengths, PICTURES_A_BATCH):.1%}")


def main(pictures: int, texts: int, rounds: int) -> None:
    """Compare all."""
    drawn = draw_texts(texts)
    with tempfile.TemporaryDirectory() as room:
        compare_texts(Path(room), "MiniLM's shape", MINILM, drawn, rounds)
        compare_texts(Path(room), "2 layers of 32", sizes(), drawn, rounds)
        if pictures:
            compare_pictures(Path(room), pictures, rounds)


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["64", "1024", "7"][len(sys.argv) - 1 :])))
