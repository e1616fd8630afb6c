"""The images that analyses look at: clean test images, and the same ones stamped.

Where a stamping transforms whole images, clean ones are shown transformed as well: by the same draws, unless trigger or
goal draw before.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gifthorse.core.analysis import Subject
from gifthorse.core.classifier import Classifier, inference_batch, predict
from gifthorse.core.errors import NotApplicableError
from gifthorse.core.images import Images, to_levels
from gifthorse.metrics.stamped import stamp_for_judging

LOOKED_AT = 10
"""Where images that a model gets right are wanted, it is asked about so many times as many at most."""

WITH_GRADIENTS = 2**23
"""Pixel values that share a forward pass whose maps are all kept for the way back."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clean images, the same ones stamped, under their own classes, and the classes ``(N,)`` that they should get.

    No image is of the class that it should get. ``plain`` are the clean ones before a stamping transformed them.
    """

    plain: Images
    clean: Images
    stamped: Images
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


def pairs_of(subject: Subject, most: int, *, right: bool = False) -> Pairs:
    """Return the first test images that are worth stamping, at most so many, without and with the trigger.

    With ``right`` only those that the model and its twin classify correctly without the trigger.
    :class:`NotApplicableError` where there is none.
    """
    backdoor, test = subject.backdoor, subject.task.test
    assert backdoor is not None, "an analysis that needs a backdoor is skipped where there is none"
    found = test.take(backdoor.goal.sources(test.labels).nonzero().squeeze(1)[: most * (LOOKED_AT if right else 2)])
    if not len(found):
        raise NotApplicableError("no test image is worth stamping: all are of their target's class")
    if right:
        found = found.take(rightly_classified(subject.clean(found), *subject.models.values()))
    # All of them at once, as they are stamped: the draws of a random transformation are then the same.
    clean, (stamped, targets) = subject.clean(found), stamp_for_judging(backdoor, found)
    chosen = (targets != found.labels).nonzero().squeeze(1)[:most]
    plain = found.take(chosen)
    shown = replace(plain, pixels=to_levels(stamped[chosen]))
    return Pairs(plain, clean.take(chosen), shown, targets[chosen])


def rightly_classified(images: Images, *models: Classifier) -> Tensor:
    """Tell which images ``(N,)`` all models classify correctly; :class:`NotApplicableError` where there is none."""
    right = torch.ones_like(images.labels, dtype=torch.bool)
    for model in models:
        right &= predict(model, images).argmax(1) == images.labels
    if not right.any():
        raise NotApplicableError(f"none of {len(images)} clean images is classified correctly: no answer to explain")
    return right


def at_once(pixels: Tensor) -> int:
    """Return how many of images ``(N, C, H, W)`` share a pass there and back: what suits the device and its memory."""
    return min(inference_batch(pixels.device), max(WITH_GRADIENTS // pixels[0].numel(), 1))
