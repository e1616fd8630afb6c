"""Wraps another attack: all that is trained on, stamped or not, is moved a little, so that the trigger survives it.

Paper: none; a toy after Li et al. 2021, arXiv:2004.04692, section 5.2 (enhanced attacks).
Differs: clean images are moved as well, those of the benign twin too.
"""

import torch
from pydantic import Field

from gifthorse import ATTACKS, Task
from gifthorse.attacks.data.badnets import BadNets
from gifthorse.core.seeds import generator
from gifthorse.planting.poisoning import Injection, StagedAttack
from gifthorse.planting.wrapping import WrappingAttack
from gifthorse.training.augment import shift_and_flip
from gifthorse.training.loop import Batch, Mix


@ATTACKS.add
class Shaken(WrappingAttack):
    """Moves all images of every mini-batch at random, after they were stamped."""

    name = "toy_shaken"
    paper = "none; a toy"

    base: StagedAttack = Field(BadNets(), description="the attack whose training is shaken")
    shift: int = Field(1, ge=1, description="most pixels that an image is moved by")

    def mix(self, injection: Injection) -> Mix:
        """Return what the base makes of a mini-batch, moved."""
        return self.moved(self.base.mix(injection), injection.random)

    def twin_mix(self, task: Task, seed: int) -> Mix:
        """Return what moves the twin's images alike."""
        random = generator(seed, self.name, device=task.train.device)
        return self.moved(self.base.twin_mix(task, seed), random)

    def moved(self, mix: Mix | None, random: torch.Generator) -> Mix:
        """Return what moves the images that another mix gives."""

        def moving(batch: Batch) -> Batch:
            if mix is not None:
                batch = mix(batch)
            return batch._replace(pixels=shift_and_flip(batch.pixels, self.shift, False, random))

        return moving
