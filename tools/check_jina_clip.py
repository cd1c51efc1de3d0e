"""A check of jina-clip-v2 with its real weights: `python -m tools.check_jina_clip [beach1.jpg beach2.jpg]`.

The card's model is loaded as `embed` would load it (from the hub, or the card's `checkpoint`), and cosines of the
sentences on the model's page are held against those that the publisher's own code gave on a CPU in float32, in a public
notebook of the project SmartImageFinder, 2025. With the two pictures of that page
(https://i.ibb.co/nQNGqL0/beach1.jpg and https://i.ibb.co/r5w8hG8/beach2.jpg) those of pictures are held too. The exit
status is 1 where one is further off than is taken: pictures were decoded and resized by another library there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from twinlens.config.load import read_params
from twinlens.config.models import Tower
from twinlens.core.device import Placement
from twinlens.core.errors import TwinLensError
from twinlens.images.transforms import batch_pixels
from twinlens.models import encoders
from twinlens.models.encoders.base import LoadedEncoders

Cosines = Float32[np.ndarray, "rows columns"]

CARD = "jina-clip-v2"
TAKEN = {"sentences": 0.001, "pictures": 0.005}  # of the cosines' difference
SENTENCES = (  # "beautiful sunset over the beach", then in Arabic, Chinese, French, German, Greek, Hindi, ...
    "beautiful sunset over the beach",
    "غروب جميل على الشاطئ",
    "海滩上美丽的日落",
    "Un beau coucher de soleil sur la plage",
    "Ein wunderschöner Sonnenuntergang am Strand",
    "Ένα όμορφο ηλιοβασίλεμα πάνω από την παραλία",
    "समुद्र तट पर एक खूबसूरत सूर्यास्त",
    "Un bellissimo tramonto sulla spiaggia",
    "浜辺に沈む美しい夕日",
    "해변 위로 아름다운 일몰",
)
# Of the first sentence with the others, and of each sentence with both pictures.
WITH_SENTENCES = (0.8217206, 0.8121675, 0.8934908, 0.9126601, 0.8692525, 0.8647490, 0.8640394, 0.7075120, 0.8935031)
WITH_PICTURES = (
    (0.3303666, 0.3382796),
    (0.3517380, 0.3347691),
    (0.3554747, 0.3601032),
    (0.3215525, 0.3212799),
    (0.3172116, 0.3202860),
    (0.3375237, 0.3439015),
    (0.3677043, 0.3657585),
    (0.3324339, 0.3337223),
    (0.3446894, 0.3272598),
    (0.3501862, 0.3505540),
)


def measure_cosines(loaded: LoadedEncoders, pictures: list[bytes]) -> tuple[Cosines, Cosines | None]:
    """Measure the cosines of the first sentence with the others, and of all with the pictures (JPEGs), if any."""
    assert loaded.text is not None
    assert loaded.image is not None
    with torch.inference_mode():
        texts = _unit(loaded.text.encode(list(SENTENCES)))
        seen = _unit(loaded.image.encode(batch_pixels(pictures, loaded.image.pixels))) if pictures else None
    return texts[:1] @ texts[1:].T, None if seen is None else texts @ seen.T


def _unit(vectors: torch.Tensor) -> Cosines:
    return torch.nn.functional.normalize(vectors.float(), dim=1).cpu().numpy()


def compare(what: str, found: Cosines, wanted: Cosines) -> bool:
    """Print how far cosines are from those wanted; returns whether all are near enough."""
    apart = np.nan_to_num(np.abs(found - wanted), nan=np.inf)
    near = bool((apart <= TAKEN[what]).all())
    row, column = np.unravel_index(int(apart.argmax()), apart.shape)
    print(
        f"{what}: {'right' if near else 'WRONG'}; of {apart.size} cosines the furthest from those published is "
        f"{found[row, column]:.5f} for {wanted[row, column]:.5f}; a difference of {TAKEN[what]} is taken"
    )
    return near


def check(tower: Tower, pictures: list[bytes]) -> bool:
    """Check a model of this kind; returns whether its cosines are those published."""
    loaded = encoders.load(tower, encoders.locate(tower), Placement(torch.device("cpu"), torch.float32))
    sentences, seen = measure_cosines(loaded, pictures)
    right = compare("sentences", sentences, np.asarray([WITH_SENTENCES], dtype=np.float32))
    if seen is not None:
        right &= compare("pictures", seen, np.asarray(WITH_PICTURES, dtype=np.float32))
    return right


def main() -> int:
    """Check the card's model; returns the exit status."""
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("pictures", nargs="*", type=Path, help="both or none: beach1.jpg beach2.jpg, in this order")
    pictures: list[Path] = told.parse_args().pictures
    if len(pictures) not in (0, 2):
        told.error("name both pictures, or none")
    try:
        right = check(read_params().models[CARD].towers()["joint"], [path.read_bytes() for path in pictures])
    except (TwinLensError, OSError, ValueError) as error:
        told.error(str(error))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
