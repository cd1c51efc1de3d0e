"""What our loop adds to sentence-transformers' own: the same tiny Qwen3-VL, pictures and batches, side by side.

    python -m benchmarks.multimodal [pictures] [rounds]

Both decode the same JPEGs, read them by the same processor and run the same model; ours also keeps parts on the disk
and checks vectors. Rounds alternate, and the median of their ratios is told. Padding is that of the picture tokens.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import simplejpeg
from PIL import Image
from sentence_transformers import SentenceTransformer

from tests.multimodal import save_embedder
from tests.tiny import CPU, photo, write_shards
from twinlens.config.sentence_models import SentenceTransformersTower
from twinlens.core.scratch import Scratch, fingerprint
from twinlens.core.shards import iter_pixels
from twinlens.inference.loop import join_parts
from twinlens.inference.native_loop import embed_native
from twinlens.models import encoders
from twinlens.models.native import count_picture_tokens, measure_padding

BATCH = 16


def main(count: int, rounds: int) -> None:
    """Time both and print the ratio, how far vectors are apart, and the share of padding."""
    with tempfile.TemporaryDirectory() as room:
        folder = save_embedder(Path(room) / "model")
        sides = np.random.default_rng(0).choice([(512, 384), (384, 512), (384, 384), (576, 384), (384, 640)], count)
        files = [simplejpeg.encode_jpeg(photo(seed, int(w), int(h))) for seed, (w, h) in enumerate(sides)]
        rows = write_shards(files, Path(room) / "shards", per_shard=1000).with_columns(pl.col("image_id").alias("id"))
        tower = SentenceTransformersTower(sentence_transformers="tiny", checkpoint=str(folder))
        encoder = encoders.load(tower, folder, CPU).native
        assert encoder is not None
        model = SentenceTransformer(str(folder), device="cpu")

        def ours(number: int) -> np.ndarray:
            with Scratch("benchmark", fingerprint(room=room, number=number)) as scratch:
                embed_native(encoder, Path(room) / "shards", rows, scratch, CPU, batch=BATCH, read_threads=1)
                return join_parts(scratch)

        def theirs() -> np.ndarray:
            jpegs = (jpeg for _, jpeg in iter_pixels(Path(room) / "shards", rows))
            pictures = [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in jpegs]
            return model.encode(pictures, prompt="", batch_size=BATCH, show_progress_bar=False)

        apart = np.abs(ours(-1) - theirs()).max()
        ratios = []
        for number in range(rounds):
            started = time.perf_counter()
            ours(number)
            between = time.perf_counter()
            theirs()
            ratios.append((between - started) / (time.perf_counter() - between))
        lengths = count_picture_tokens(model.processor, [(int(h), int(w)) for w, h in sides])
        print(f"{count} pictures: ours takes {statistics.median(ratios):.3f} of the library's time", end=" ")
        print(f"({min(ratios):.3f} to {max(ratios):.3f}); vectors differ by {apart:.1e} at most; padding", end=" ")
        print(f"{measure_padding(np.sort(lengths)[::-1], BATCH):.1%}, unsorted {measure_padding(lengths, BATCH):.1%}")


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["96", "5"][len(sys.argv) - 1 :])))
