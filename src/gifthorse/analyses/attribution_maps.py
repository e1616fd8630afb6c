"""What analyses share that compare where answers come from with a trigger and without.

Paper: TrojanZoo (Pang et al. 2022, arXiv:2012.09302), section 6.4 (RQ9), Figure 11 and Table 19: for a pair of benign
    and trojan models and 100 pairs of clean and stamped inputs, the maps of the true class and of the target on both
    models, and the L1 distance of the maps of a pair, divided by the image's size.
Differs: the benign model is the benign twin. How maps are scaled is not printed; here each is from 0 to 1. How much of
    a map lies on the trigger is not in the paper. Behind a reform a stage's maps are of the reformed image, whose
    places may be others than the image's, and others again once it is stamped: their share on the trigger is not told.
"""

from abc import abstractmethod
from itertools import product
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gifthorse.analyses.pairs import Pairs, at_once, pairs_of
from gifthorse.core.analysis import Analysis, Findings, Number, Subject
from gifthorse.core.classifier import Classifier
from gifthorse.core.progress import track
from gifthorse.core.trojan import Backdoor
from gifthorse.inversion.attribution import as_heat
from gifthorse.inversion.frozen import freeze
from gifthorse.metrics import functional
from gifthorse.metrics.functional import Counted
from gifthorse.metrics.stamped import PICTURES, Evidence, to_array

CLASSES = {"label": "own class", "target": "target"}
"""The classes whose maps are compared, in order: as numbers call them, and as captions do."""

SUFFIX = {"model": "", "twin": "_twin"}
"""What the names of a model's numbers end in."""


class AttributionMaps(Analysis):
    """Compares maps of clean images with those of the same ones stamped, of two classes, on a model and its twin."""

    of_pixels: ClassVar[bool] = True
    """Whether maps are of the image as it is given; else of a stage, which sees what a reform makes of it."""

    images: int = Field(
        100, ge=1, description="pairs of clean and stamped test images, those that both models get right when clean"
    )

    @abstractmethod
    def attribute(self, model: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return what the logits of ``labels (L, N)`` come from: ``(L, N, H', W')`` from 0, of any size.

        The model is frozen; ``pixels (N, C, H, W)`` are in [0,1].
        """

    def maps(self, model: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return maps ``(L, N, H, W)`` of ``labels (L, N)``, as large as the images, each from 0 to 1."""
        size = at_once(pixels)
        parts = zip(pixels.split(size), labels.split(size, 1), strict=True)
        found = torch.cat([self.attribute(model, *part) for part in parts], 1)
        height, width = pixels.shape[2:]
        return as_heat(found.flatten(0, 1), (height, width)).view(*labels.shape, height, width)

    def look(self, subject: Subject, seed: int) -> Findings:  # noqa: ARG002
        """Return how far the trigger moves the maps, and what share of the target's map lies on it."""
        return self.compare(subject, pairs_of(subject, self.images, right=True))

    def compare(self, subject: Subject, pairs: Pairs) -> Findings:
        """Return the numbers of pairs of images, and pictures of the first."""
        labels, models = torch.stack([pairs.clean.labels, pairs.targets]), subject.models
        shown = {"clean images": pairs.clean, "stamped images": pairs.stamped}
        evidence = Evidence({f"pictures/{kind}": to_array(each.pixels[:PICTURES]) for kind, each in shown.items()})
        frozen = {name: freeze(model) for name, model in models.items()}
        asked = list(product(models, shown))
        found: dict[tuple[str, str], Tensor] = {}
        for name, kind in track(asked, self.name, len(asked)):
            found[name, kind] = self.maps(frozen[name], shown[kind].floats(), labels)
            for caption, maps in zip(CLASSES.values(), found[name, kind], strict=True):
                evidence[f"pictures/{name}, {kind}, {caption}"] = as_pictures(maps)
        numbers: dict[str, Number] = {}
        for name in models:
            moved = (found[name, "stamped images"] - found[name, "clean images"]).abs().mean((1, 2, 3))
            for which, distance in zip(CLASSES, moved.tolist(), strict=True):
                numbers[f"map_difference_{which}{SUFFIX[name]}"] = Counted(distance, len(pairs))
        lies_there = self.of_pixels or subject.model.reform is None
        if lies_there and (mask := mask_of(subject.backdoor)) is not None:
            _, of_target = found["model", "stamped images"]
            numbers["trigger_mass"] = functional.mass_within(of_target, mask > 0)
        return Findings(numbers, evidence)


def mask_of(backdoor: Backdoor | None) -> Tensor | None:
    """Return the mask ``(1, H, W)`` of a trigger that lies on some fixed pixels; ``None`` of any other."""
    mask = None if backdoor is None else backdoor.trigger.mask
    return None if mask is None or mask.all() else mask


def as_pictures(maps: Tensor) -> np.ndarray:
    """Return the first of maps ``(N, H, W)`` in [0,1] as grey pictures ``uint8 (P, 1, H, W)``."""
    return to_array((255 * maps[:PICTURES]).round().to(torch.uint8).unsqueeze(1))
