"""MaxSim beside a plain einsum in torch and the library's own function, on the same token matrices, in turns.

python -m benchmarks.maxsim                                  # 20 queries, 500 items, a minute
python -m benchmarks.maxsim --queries 500 --items 5000       # 10.5 TFLOP: minutes on a CPU
python -m benchmarks.maxsim --device cuda
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from sentence_transformers.util.similarity import maxsim

from benchmarks.paired import alternate, median, ratio
from twinlens.core.token_matrices import TokenMatrices, join_matrices
from twinlens.report.summary import format_markdown
from twinlens.retrieval.maxsim import BLOCK_BYTES, MaxSim, choose_product_bytes, plan_blocks, score_all

DIM, DEPTH = 128, 51
EINSUM_BYTES = 2**30  # of all products at once; it is left out beyond


def draw(count: int, shortest: int, longest: int, seed: int) -> TokenMatrices:
    """Random token matrices, in float16."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, count)
    drawn = rng.standard_normal((int(lengths.sum()), DIM)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return join_matrices(np.split(drawn, np.cumsum(lengths)[:-1]))


def unpack(matrices: TokenMatrices, device: str) -> list[torch.Tensor]:
    """The same as the library takes them."""
    return [torch.from_numpy(matrices.matrix(row)).to(device).float() for row in range(len(matrices))]


def multiply(queries: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """The plain way: all products at once."""
    return torch.einsum("qsd,ntd->qnst", queries, items).amax(dim=3).sum(dim=2)


def compare(queries: TokenMatrices, items: TokenMatrices, device: str, rounds: int) -> list[list[str]]:
    """Rows of the table."""
    made = MaxSim(queries, items, DEPTH, device)
    asked, searched = unpack(queries, device), unpack(items, device)
    ways: dict[str, Callable[[], object]] = {
        "with the best without error": lambda: made.block(0, len(queries)),
        "all in float32": partial(score_all, queries, items, device),
        "the library": partial(maxsim, asked, searched),
    }
    tokens, alike = int(queries.lengths.sum()), len({*queries.lengths, *items.lengths}) == 1
    products = 4 * tokens * int(items.lengths.sum())
    if alike and products <= EINSUM_BYTES:
        ways["einsum"] = partial(multiply, torch.stack(asked), torch.stack(searched))
    taken = alternate(ways, rounds)
    flop = 2 * DIM * tokens * int(items.lengths.sum())
    plans = plan_blocks(items.lengths, tokens, DIM, BLOCK_BYTES, choose_product_bytes(device))
    told = {"with the best without error": max(plan.count_bytes(tokens, DIM) for plan in plans), "einsum": products}
    return [
        [
            f"{int(items.lengths.min())} to {int(items.lengths.max())}",
            name,
            f"{ratio(taken, name, 'the library'):.2f}",
            f"{median(taken, name):.2f}",
            f"{flop / median(taken, name) / 1e9:.0f}",
            f"{told[name] / 2**20:.0f}" if name in told else "",
        ]
        for name in ways
    ]


def main() -> None:
    """Print the time of each way as a share of the library's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of a CPU; where others use it too, one is measured best")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    lines = []
    for shortest in (options.tokens, options.tokens // 4):
        sides = draw(options.queries, shortest, options.tokens, 0), draw(options.items, shortest, options.tokens, 1)
        lines += compare(*sides, options.device, options.rounds)
    print(format_markdown(["tokens", "MaxSim", "time / library's", "seconds", "GFLOP/s", "MiB of blocks"], lines))


if __name__ == "__main__":
    main()
