"""ObjectNet (Barbu et al. 2019) as unpacked from its archives: `images/<folder>/*.png` and `mappings/*.json`.

Its licence allows no parameter of any model to be tuned on it, and asks that pictures be shown only
with the red border of one pixel that marks them as ObjectNet's. A model must not see that border, so
it is cut off here, from the copy that is embedded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from twinlens.config.datasets import ObjectNetCard
from twinlens.core import paths
from twinlens.core.errors import DataError, ResourceError
from twinlens.datasets.annotations import Annotations, Drop, RawImage
from twinlens.datasets.ids import make_unique
from twinlens.datasets.readers.archives import list_passed_over, open_tree, read_text
from twinlens.datasets.readers.files import record_trees, refuse_change
from twinlens.datasets.readers.names import is_picture
from twinlens.datasets.readers.texts import parse_json
from twinlens.images.decoding_costs import explain_costly

LABELS = "folder_to_objectnet_label.json"
BORDER_PX = 1
MAX_PX = 250_000_000  # of a picture; ObjectNet's have 12 million
RED = (255, 0, 0)


class ObjectNet:
    """Adapter of ObjectNet."""

    def __init__(self, card: ObjectNetCard) -> None:
        self.card = card

    def download(self, raw: Path) -> int:
        """Fetch nothing (its terms are accepted on objectnet.dev); record what the folder holds."""
        return record_trees(raw, self._places())

    def annotations(self, raw: Path) -> Annotations:
        """Label each picture by its folder; a folder that the label file does not know is listed as dropped."""
        places = self._places()
        refuse_change(raw, places)
        tree = open_tree(places["mappings"])
        try:
            labels = parse_json(read_text(tree, LABELS, places["mappings"]))
        except ValueError as error:
            raise DataError(f"{places['mappings'] / LABELS} is no JSON: {error}") from None
        finally:
            tree.close()
        if not isinstance(labels, dict):
            raise DataError(f"{places['mappings'] / LABELS} is no JSON object of labels by folder")
        tree = open_tree(places["images"])
        images: list[RawImage] = []
        dropped: list[Drop] = list_passed_over(tree)
        names = list(filter(is_picture, tree.names()))
        ids = make_unique([(str(PurePosixPath(name).with_suffix("")), name) for name in names])
        for image_id, name in zip(ids, names, strict=True):
            folder = PurePosixPath(name).parent.name
            if folder in labels:
                images.append(RawImage(image_id, name, "test", (str(labels[folder]),)))
            else:
                dropped.append(("image", name, "unknown_label", f"{LABELS} does not know the folder {folder!r}"))
        tree.close()
        return Annotations(images, [], dropped, captioned=False)

    def read_pictures(self, raw: Path, files: Sequence[str]) -> Iterator[bytes | str]:
        """PNG bytes without the red border, or why there are none."""
        tree = open_tree(self._places()["images"])
        try:
            for file in files:
                raw_picture = tree.read(file)
                yield raw_picture if isinstance(raw_picture, str) else crop_border(raw_picture)
        finally:
            tree.close()

    def _places(self) -> dict[str, Path]:
        folder = paths.expand(self.card.source)
        return {"images": folder / "images", "mappings": folder / "mappings"}


def crop_border(raw: bytes) -> bytes | str:
    """Crop the red border of a picture; left as it is where there is none, for copies that were cropped already."""
    if fault := explain_costly(raw):
        return fault
    try:
        opened = Image.open(io.BytesIO(raw), formats=("PNG", "JPEG"))
        width, height = opened.size
        if width * height > MAX_PX:
            return f"{width} x {height} px: over {MAX_PX / 1e6:g} megapixels"
        picture = opened.convert("RGB")
        edge = [picture.crop(box) for box in ((0, 0, width, 1), (0, height - 1, width, height))]
        edge += [picture.crop(box) for box in ((0, 0, 1, height), (width - 1, 0, width, height))]
        if min(width, height) <= 2 * BORDER_PX or any(side.getcolors(1) != [(_area(side), RED)] for side in edge):
            return raw
        inner = picture.crop((BORDER_PX, BORDER_PX, width - BORDER_PX, height - BORDER_PX))
        file = io.BytesIO()
        inner.save(file, "PNG", compress_level=1)
    except MemoryError:
        raise ResourceError(
            f"memory ran out while the border of a picture of {width} x {height} px was being cut off. "
            "Close other programs, or take the picture out of the folder"
        ) from None
    except Exception as error:  # PIL's decoders raise whatever the bytes lead them to
        return f"damaged: {error}"
    return file.getvalue()


def _area(picture: Image.Image) -> int:
    return picture.size[0] * picture.size[1]
