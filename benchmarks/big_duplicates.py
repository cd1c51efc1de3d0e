"""Near copies among millions of perceptual hashes: seconds of a processor and peak memory.

    python -m benchmarks.big_duplicates PICTURES [BITS]

Hashes are random but for the planted: of one picture in a hundred a copy with at most BITS other bits, and a
hundredth of all are one picture. The peak is that of this process, whose hashes alone are 32 bytes a picture.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from twinlens.images.duplicates import WORDS, find_near_pairs


def draw_hashes(pictures: int, bits: int) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """Draw hashes; returns them and the pairs of the planted near copies."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, (pictures, WORDS), dtype=np.uint64)
    rows = rng.permutation(pictures)
    count = pictures // 100
    words[rows[:count]] = words[rows[0]]
    originals, copies = rows[count : 2 * count], rows[2 * count : 3 * count]
    words[copies] = words[originals]
    for row in copies:
        for bit in rng.choice(256, size=int(rng.integers(1, bits + 1)), replace=False):
            words[row, bit // 64] ^= np.uint64(1 << int(bit % 64))
    pairs = zip(np.maximum(originals, copies).tolist(), np.minimum(originals, copies).tolist(), strict=True)
    return words, set(pairs)


def main(pictures: int, bits: int) -> None:
    """Print what was found, and what it took."""
    words, planted = draw_hashes(pictures, bits)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.process_time()
    found = find_near_pairs(words, bits)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    near = {(later, earlier) for later, earlier, apart in found.tolist() if apart}
    print(
        f"{pictures:,} hashes of which {pictures // 100:,} are equal, {bits} bits: {seconds:.1f} s of a processor, "
        f"peak memory {peak:,.0f} MB ({before:,.0f} before), {len(found):,} pairs, as planted: {near == planted}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 16)
