"""The comparison of pixels that the benchmark reports."""

from __future__ import annotations

import torch

from benchmarks.cuda_pixels import compare_pixels


def mean_of_colours(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.float().mean(dim=(2, 3))


def test_the_same_pixels_are_nothing_apart() -> None:
    pictures = [torch.randint(0, 256, (15, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))]
    found = compare_pixels(pictures, pictures, mean_of_colours)
    assert (found.mean_apart, found.most_apart, found.changed_top) == (0, 0, 0)
    assert found.most_turned < 1e-12


def test_grey_levels_cosines_and_what_is_found_are_told() -> None:
    base = torch.tensor([[100, 0, 0], [0, 100, 0], [99, 10, 0], [10, 99, 0]] + [[0, 0, n] for n in range(90, 99)])
    one = base.to(torch.uint8)[:, :, None, None].expand(-1, -1, 2, 2).contiguous()
    other = one.clone()
    other[0] = torch.tensor([0, 0, 100], dtype=torch.uint8)[:, None, None]  # red here, blue there
    found = compare_pixels([one], [other], mean_of_colours)
    assert found.most_apart == 100
    assert abs(found.mean_apart - 200 / 3 / 13) < 1e-9
    assert abs(found.most_turned - 1) < 1e-9
    assert abs(found.mean_turned - 1 / 13) < 1e-9
    assert 0 < found.changed_top <= 1
