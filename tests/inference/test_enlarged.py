"""Pictures that are stored smaller than a model reads them are told, with their share."""

from __future__ import annotations

import polars as pl
import pytest
from transformers import Qwen2VLImageProcessor, Siglip2ImageProcessor

from twinlens.images.transforms import PixelSpec
from twinlens.inference.enlarged import InputSize, detect_enlarged, measure_spec
from twinlens.models.native import find_fewest_pixels

MEAN = (0.5, 0.5, 0.5)


def stored(*sizes: tuple[int, int]) -> pl.DataFrame:
    return pl.DataFrame(sizes, schema={"width": pl.Int32, "height": pl.Int32}, orient="row")


def spec(mode: str, side: int, resize_px: int | None = None) -> PixelSpec:
    return PixelSpec(side, side, mode, MEAN, MEAN, resize_px=resize_px)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("needs", "sizes", "share"),
    [
        (measure_spec(spec("squash", 448)), [(512, 384)] * 3 + [(600, 448)], "75%"),
        (measure_spec(spec("shortest", 224, 256)), [(255, 900), (256, 256)], "50%"),
        (measure_spec(spec("longest", 800)), [(512, 384), (800, 200)], "50%"),
        (InputSize(area=65536), [(255, 257), (256, 256), (128, 512)], "33%"),
    ],
)
def test_the_share_of_pictures_that_are_enlarged_is_told(
    needs: InputSize, sizes: list[tuple[int, int]], share: str
) -> None:
    trouble = detect_enlarged(stored(*sizes), needs, "open_clip someone")
    assert trouble is not None
    assert "open_clip someone reads" in trouble
    assert f"{share} of {len(sizes)} are stored smaller" in trouble


def test_the_message_says_what_is_stored_and_what_to_do() -> None:
    trouble = detect_enlarged(stored((512, 384)), measure_spec(spec("squash", 448)), "a tower")
    assert trouble is not None
    assert "448 pixels of a picture's shorter side" in trouble
    assert "the largest with 384 on the shorter side" in trouble
    assert "-S resize.shortest_side_px=448" in trouble


@pytest.mark.parametrize("needs", [InputSize(), measure_spec(spec("shortest", 224)), InputSize(area=1000)])
def test_pictures_that_are_large_enough_raise_nothing_nor_do_a_few_that_are_not(needs: InputSize) -> None:
    assert detect_enlarged(stored(*[(512, 384)] * 99, (20, 20)), needs, "a tower") is None
    assert detect_enlarged(stored(), needs, "a tower") is None


def test_processors_say_how_many_pixels_they_enlarge_a_picture_to() -> None:
    assert find_fewest_pixels(Siglip2ImageProcessor(patch_size=16, max_num_patches=256)) == 65536
    assert find_fewest_pixels(Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 99999})) == 3136
    assert find_fewest_pixels(object()) == 0
