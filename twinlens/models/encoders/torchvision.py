"""Faster R-CNN of torchvision: box-head features of a picture's best regions, pooled.

A region is a proposal that the detector turns into a detection: scored over its threshold for some
class, kept by the suppression of overlapping boxes, and among the `regions` best. Its features are those
from which the detector names its class (1,024 numbers). A picture in which nothing is detected is
described by the proposals that come nearest to it.

Pictures go through one by one and in float32. A detector sorts and cuts: where two scores are nearly
equal, the last digit decides which region is taken, and that digit depends on what shares the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, Int64, UInt8
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from twinlens.config.models import TorchvisionTower
from twinlens.core.device import Placement
from twinlens.core.errors import DataError
from twinlens.images.transforms import PixelSpec
from twinlens.models.construction import fill_parameters, leave_parameters_empty
from twinlens.models.encoders.base import LoadedEncoders, count_parameters, normalise_pixels
from twinlens.models.state_dicts import load_state, read_state, rename_to_fit

CLASS_SCORES = "roi_heads.box_predictor.cls_score.weight"
GREY = 114  # of what surrounds a picture that is no square: near the mean that the detector subtracts
SMALLEST_BOX_PX = 1e-2  # the detector's own limit


def load(card: TorchvisionTower, path: Path, placement: Placement, random_weights: bool = False) -> LoadedEncoders:
    """Load the image tower.

    Raises:
        DataError: the weights do not fit the detector.
    """
    state = None if random_weights else _state(card, path)
    classes = {} if state is None else {"num_classes": len(state[CLASS_SCORES])}
    build: Callable[..., Any] = getattr(detection, card.torchvision)
    with leave_parameters_empty() if state is not None else nullcontext():
        model = build(weights=None, weights_backbone=None, **classes)
    if state is not None:
        fill_parameters(model, placement.device)
        load_state(model, state, card.torchvision, path)
    if card.torchvision == "fasterrcnn_resnet50_fpn" and card.weights == "COCO_V1":
        for module in model.modules():  # these weights alone were trained without it, and torchvision builds them so
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 0.0
    return LoadedEncoders(_Image(model.eval().to(placement.device), card, placement), None)


def _state(card: TorchvisionTower, path: Path) -> dict[str, torch.Tensor]:
    found = rename_to_fit(read_state(path, card.torchvision), (CLASS_SCORES,))
    if CLASS_SCORES not in found:
        raise DataError(f"{path} does not hold the weights of {card.torchvision}: it has no {CLASS_SCORES}")
    return found


class _Image:
    def __init__(self, model: Any, card: TorchvisionTower, placement: Placement) -> None:
        self.model, self.card = model, card
        # detectors compare coordinates of hundreds of pixels, for which bf16 has no digits left
        self.placement = Placement(placement.device, torch.float32)
        self.pixels = PixelSpec(
            height=card.size_px,
            width=card.size_px,
            mode="longest",
            mean=tuple(model.transform.image_mean),
            std=tuple(model.transform.image_std),
            interpolation="bilinear",
            fill=GREY,
        )
        self.parameters = count_parameters(model)

    def encode(self, pictures: UInt8[torch.Tensor, "images 3 height width"]) -> Float32[torch.Tensor, "images dim"]:
        return torch.stack([self._pooled(picture[None]) for picture in pictures])

    def _pooled(self, picture: UInt8[torch.Tensor, "1 3 height width"]) -> Float32[torch.Tensor, " dim"]:
        pixels = normalise_pixels(picture, self.pixels, self.placement)
        size = (self.pixels.height, self.pixels.width)
        maps = self.model.backbone(pixels)
        proposals, _ = self.model.rpn(ImageList(pixels, [size]), maps)
        if not len(proposals[0]):  # some detectors drop weak proposals; the whole picture is left
            proposals = [torch.tensor([[0.0, 0.0, size[1], size[0]]], device=pixels.device)]
        heads = self.model.roi_heads
        features = heads.box_head(heads.box_roi_pool(maps, proposals, [size]))
        logits, offsets = heads.box_predictor(features)
        best = self._regions(logits.softmax(dim=-1), heads.box_coder.decode(offsets, proposals), size)
        chosen = features[best]
        pooled: torch.Tensor = chosen.mean(dim=0) if self.card.pooling == "mean" else chosen.amax(dim=0)
        return pooled

    def _regions(
        self,
        scores: Float32[torch.Tensor, "proposals classes"],
        boxes: Float32[torch.Tensor, "proposals classes 4"],
        size: tuple[int, int],
    ) -> Int64[torch.Tensor, " regions"]:
        """The proposals behind the best detections, best first, each once; class 0 is the background.

        The detector itself returns boxes without saying from which proposal each came, so its selection
        (`RoIHeads.postprocess_detections`) is made again here.
        """
        heads, objects = self.model.roi_heads, scores.shape[1] - 1
        found = scores[:, 1:].flatten()
        placed = clip_boxes_to_image(boxes[:, 1:].reshape(-1, 4), size)
        kept = torch.where(found > heads.score_thresh)[0]
        kept = kept[remove_small_boxes(placed[kept], SMALLEST_BOX_PX)]
        kept = kept[batched_nms(placed[kept], found[kept], kept % objects, heads.nms_thresh)]
        proposals = list(dict.fromkeys((kept[: heads.detections_per_img] // objects).tolist()))
        if not proposals:
            proposals = scores[:, 1:].amax(dim=1).argsort(descending=True, stable=True).tolist()
        return torch.tensor(proposals[: self.card.regions], device=scores.device)
