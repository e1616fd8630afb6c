"""What dynamic attacks share: another pattern at another place on every image, for one target or for several.

Paper: Dynamic Backdoors (Salem et al. 2020, arXiv:2003.03675), sections 3 and 4.7: small patches at places drawn from
    a set, disjoint sets for several targets where the pattern does not tell which is meant; whole images at a small
    scale s (1 is opaque, so that s = 1 - transparency).
Differs: the sum of clean and backdoor loss over as many images each is their mean over the batch of both
    (poison_rate=0.5), half as large. Where there are several targets every stamped image draws one, where the paper
    adds the losses of all. The rest as in planting/poisoning.py.
"""

from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.task import Task
from gifthorse.planting.patches import Place
from gifthorse.planting.poisoning import PoisoningAttack
from gifthorse.planting.targets import ManyTargets
from gifthorse.triggers.placed import PlacedTrigger
from gifthorse.triggers.places import anywhere, bands, center, grid, split


class DynamicAttack(ManyTargets, PoisoningAttack):
    """Stamps a patch that is new for every image; what it shows is the attack's own."""

    origin: Literal["benign", "scratch"] = Field(
        "scratch", description="benign: re-train the benign model; scratch: train anew by the task's recipe"
    )
    poison_rate: float = Field(0.5, gt=0, lt=1, description="share of the images trained on that are stamped copies")
    trigger_size: Annotated[int, Field(ge=1)] | Literal["image"] = Field(
        5,
        description="side of the square trigger, in pixels; image: as large as the image (use transparency=0.9)",
    )
    locations: Literal["bands", "center", "anywhere"] | Annotated[int, Field(ge=1)] | tuple[Place, ...] | None = Field(
        None,
        description="where triggers may lie: so many places on a grid (4 are the corners), four around the center, "
        "anywhere, bands (a region for each target, moving vertically), or [[row,column],...]; null: 4, or bands for "
        "several targets with disjoint locations",
    )
    disjoint: bool = Field(True, description="whether each of several targets has locations of its own")
    transparency: float = Field(0.0, ge=0, lt=1, description="α of the trigger: 0 opaque, towards 1 invisible")

    @abstractmethod
    def placed_trigger(self, task: Task, places: Tensor, size: tuple[int, int, int], seed: int) -> PlacedTrigger:
        """Return the trigger that training starts with: ``places (K, P, 2)``, ``size (C, h, w)``, on the CPU."""

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> PlacedTrigger:  # noqa: ARG002
        """Return the trigger that training starts with."""
        return self.placed_trigger(task, self.places(task), self.window(task), seed)

    def check(self, task: Task) -> None:
        """Refuse triggers and locations that do not fit, and fewer locations than targets."""
        super().check(task)
        self.placed_trigger(task, self.places(task), self.window(task), 0)

    def window(self, task: Task) -> tuple[int, int, int]:
        """Return the size of the trigger, ``(C, h, w)``."""
        if self.trigger_size == "image":
            return task.train.shape
        return task.train.shape[0], self.trigger_size, self.trigger_size

    def places(self, task: Task) -> Tensor:
        """Return the places ``int64 (K, P, 2)`` of each condition, or with K = 1 those that all share."""
        shape, size, targets = task.train.shape, self.window(task)[1:], len(self.targets(task))
        apart = self.disjoint and targets > 1
        locations = self.locations
        if self.trigger_size == "image":
            found = torch.zeros(1, 2, dtype=torch.long)
        elif locations == "bands" or (locations is None and apart):
            found = bands(shape, size, targets)
            return found if apart or targets == 1 else found.flatten(0, 1)[None]
        elif locations == "anywhere":
            found = anywhere(shape, size)
        elif locations == "center":
            found = center(shape, size)
        elif locations is None or isinstance(locations, int):
            found = grid(shape, size, 4 if locations is None else locations)
        else:
            found = torch.tensor(locations)
            fits = {tuple(each) for each in anywhere(shape, size).tolist()}
            for place in found.tolist():
                if tuple(place) not in fits:
                    raise RequestError(
                        f"a trigger of {size[0]}×{size[1]} at {place} leaves an image of {shape[1]}×{shape[2]}"
                    )
        return split(found, targets) if apart else found[None]
