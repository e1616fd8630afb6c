"""Enhanced: whatever carries the trigger is flipped, shrunk and moved at random before it is trained on.

Paper: Li et al. 2020, "Rethinking the Trigger of Backdoor Attack", arXiv:2004.04692, section 4.2 and appendix C: a
    random left-right flip, then ShrinkPad by 0 to 4 pixels at a random place (the maximum is swept in appendix F.2). By
    default benign images are transformed alike, the paper's control: otherwise the black border is a trigger of its
    own. On badnets, blended and label_consistent these are the paper's BadNets+, Blended+ and Consistent+.
Differs: every image is transformed anew each time it is trained on; the benign twin is trained on transformed images as
    well where the benign ones are.
"""

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from gifthorse.core.errors import RequestError
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.planting.poisoning import Injection, PoisoningAttack, StagedAttack
from gifthorse.planting.wrapping import WrappingAttack
from gifthorse.training.loop import Batch, Mix

Transform = Literal["flip", "shrinkpad"]


class Enhanced(WrappingAttack):
    """Transforms at random what another attack stamps, so that its trigger survives transformation."""

    name = "enhanced"
    aliases = ("transformation_robust",)
    paper = "Li et al. 2020, arXiv:2004.04692"
    variants = ("enhanced[base=badnets[mixing=dataset],also_benign=false]",)

    base: StagedAttack = Field("badnets", description="the attack whose stamped images are transformed")  # type: ignore[assignment]
    transforms: tuple[Transform, ...] = Field(
        ("flip", "shrinkpad"), min_length=1, description="one after the other: flip (every second image), shrinkpad"
    )
    max_shrink: int = Field(4, ge=0, description="most pixels that shrinkpad takes off height and width")
    also_benign: bool = Field(True, description="transform all that is trained on, not only what is stamped")

    def check(self, task: Task) -> None:
        """Refuse a base whose training is its own, and shrinking that leaves nothing."""
        if not isinstance(self.base, PoisoningAttack) or self.base.directs_training:
            raise RequestError(
                f"enhanced transforms what is trained on, and '{self.base}' directs the training itself: "
                "name an attack that only poisons it"
            )
        side = min(task.train.shape[1:])
        if self.max_shrink >= side:
            raise RequestError(f"max_shrink={self.max_shrink} leaves nothing of an image of {side} pixels")
        super().check(task)

    def mix(self, injection: Injection) -> Mix:
        """Return what the base makes of a mini-batch, transformed."""
        mix, random = self.base.mix(injection), injection.random

        def transforming(batch: Batch) -> Batch:
            if mix is not None:
                batch = mix(batch)
            if self.also_benign:
                return batch._replace(pixels=self.transformed(batch.pixels, random))
            if batch.stamped is None:
                return batch
            moved = self.transformed(batch.pixels, random)
            return batch._replace(pixels=torch.where(batch.stamped.view(-1, 1, 1, 1), moved, batch.pixels))

        return transforming

    def twin_mix(self, task: Task, seed: int) -> Mix | None:
        """Return what the twin's images undergo: the same, where benign images do."""
        inner = self.base.twin_mix(task, seed)
        if not self.also_benign:
            return inner
        random = generator(seed, self.name, device=task.train.device)

        def transforming(batch: Batch) -> Batch:
            if inner is not None:
                batch = inner(batch)
            return batch._replace(pixels=self.transformed(batch.pixels, random))

        return transforming

    def transformed(self, pixels: Tensor, random: torch.Generator) -> Tensor:
        """Return images ``(N, C, H, W)``, each flipped, shrunk and moved by draws of its own."""
        transforms: dict[Transform, Callable[[Tensor, torch.Generator], Tensor]] = {
            "flip": flipped_by_halves,
            "shrinkpad": self.shrunk,
        }
        for name in self.transforms:
            pixels = transforms[name](pixels, random)
        return pixels

    def shrunk(self, pixels: Tensor, random: torch.Generator) -> Tensor:
        """Return images shrunk by 0 to ``max_shrink`` pixels each, at a random place on black."""
        amounts = torch.randint(self.max_shrink + 1, (len(pixels),), generator=random, device=pixels.device)
        shares = torch.rand(2, len(pixels), generator=random, device=pixels.device)
        top, left = (shares * (amounts + 1)).long()
        rows, columns = (
            shrinking(side, self.max_shrink).to(pixels.device)[amounts, offset].unsqueeze(1)
            for side, offset in zip(pixels.shape[2:], (top, left), strict=True)
        )
        # A bilinear resize is a product with a matrix on either side: one for every image, whatever its size.
        return rows @ pixels @ columns.transpose(2, 3)


@cache
def shrinking(side: int, most: int) -> Tensor:
    """Return what shrinks lines of ``side`` pixels, ``(most + 1, most + 1, side, side)``, by amount and offset.

    Each matrix has the weights of bilinear interpolation between the centres of pixels, as the defense shrinkpad has.
    """
    lines = torch.eye(side).expand(1, 1, side, side)
    found = torch.zeros(most + 1, most + 1, side, side)
    for amount in range(most + 1):
        small = interpolate(lines, (side - amount, side), mode="bilinear", align_corners=False)[0, 0]
        for offset in range(amount + 1):
            found[amount, offset, offset : offset + side - amount] = small
    return found


def flipped_by_halves(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Return images of which each is mirrored, left to right, with a chance of one in two."""
    chosen = torch.rand(len(pixels), generator=random, device=pixels.device) < 0.5
    return torch.where(chosen.view(-1, 1, 1, 1), pixels.flip(3), pixels)
