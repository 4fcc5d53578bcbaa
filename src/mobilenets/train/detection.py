"""Training a detector: its goal, what it finds on the validation pictures, and the end of its run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from mobilenets.average_precision import measure_boxes
from mobilenets.checkpoint import Card
from mobilenets.data.boxed import BoxedPictures
from mobilenets.image.detection import Decoder, Found, anchors, detector_of, on_picture
from mobilenets.nn.box_loss import detection_loss, flat_heads, matched
from mobilenets.recipe import Recipe
from mobilenets.train.evaluation import in_order
from mobilenets.train.goal import Measured, nothing_right


class Detection:
    """Boxes on a picture: SSD's loss, and COCO's mean average precision."""

    metric = "val_map"

    def __init__(self, card: Card, val: BoxedPictures, recipe: Recipe) -> None:
        self._card, self._val, self._recipe = card, val, recipe
        self._detector = detector_of(card.plan)
        self._anchors = torch.from_numpy(anchors(card.plan))
        self._decoder = Decoder(card.plan)

    def loss(self, outputs: Any, wanted: Tensor, targets: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """Return the loss of a detector's maps; no picture counts as right."""
        del wanted
        return self._loss(outputs, targets, recipe), nothing_right(targets)

    def _loss(self, outputs: Any, targets: Tensor, recipe: Recipe) -> Tensor:
        self._anchors = self._anchors.to(targets.device)
        differences, scores = flat_heads(outputs, self._detector.anchors.counts, len(self._card.labels))
        what, where = matched(self._anchors, targets)
        return detection_loss(
            differences,
            scores,
            what,
            where,
            self._anchors,
            self._detector,
            negatives=recipe.negatives,
            focal=recipe.focal,
        )

    def judge(
        self,
        network: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        accelerator: Accelerator,
        to_input: Callable[[Tensor], Tensor],
        advance: Callable[[], None] | None = None,
    ) -> Measured:
        """Return the loss, and mean average precision over overlaps from .5 to .95 and at .5."""
        if not len(self._val):
            return {"val_loss": None, "val_map": None, "val_map_50": None}
        found, loss = self.find(network, batches, accelerator, to_input, advance)
        report = measure_boxes(self._val.truths, found, self._card.labels)
        return {"val_loss": loss, "val_map": report.map or 0.0, "val_map_50": report.map_50 or 0.0}

    @torch.no_grad()
    def find(
        self,
        network: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        accelerator: Accelerator,
        to_input: Callable[[Tensor], Tensor],
        advance: Callable[[], None] | None = None,
    ) -> tuple[list[Found], float]:
        """Return what a network, put in eval mode, finds on every validation picture, and its mean loss.

        Boxes are in pixels of the pictures, which are in order, on all processes.
        """
        network.eval()
        mine: list[Found] = []
        total = 0.0
        for images, targets in batches:
            outputs = network.forward(to_input(images))  # not network(...): what is compiled is compiled for training
            total += float(self._loss(outputs, targets.to(accelerator.device), self._recipe)) * len(targets)
            mine += self._decoder([each.float().cpu().numpy() for each in outputs])
            if advance is not None:
                advance()
        parts = [(mine, total)] if accelerator.num_processes == 1 else gather_object([(mine, total)])
        laid = [found for part, _ in parts for found in part]
        order = in_order([len(part) for part, _ in parts])
        found = [
            on_picture(laid[place], self._card.preprocess, *self._val.size(index))
            for index, place in enumerate(order.tolist())
        ]
        return found, sum(each for _, each in parts) / max(1, len(found))
