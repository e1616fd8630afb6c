"""Reflection backdoor: the trigger is a piece of a reflection, chosen for how well a model learns it.

Paper: TrojanZoo, section 4.1 and Table 20, after Liu et al. 2020, arXiv:2007.02343. TrojanZoo defines every trigger by
    a mask of a few pixels and relabels; Liu et al. lay reflections over whole images, see refool.
Differs: a patch shows a piece of the reflection; TrojanZoo's code shows a shrunk one. The rest as in
    planting/reflections.py.
"""

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.task import Task
from gifthorse.planting.patches import Place, ShapedAttack
from gifthorse.planting.reflections import ReflectionAttack
from gifthorse.triggers.patch import Corner
from gifthorse.triggers.reflection import Reflection as ReflectionTrigger
from gifthorse.triggers.reflection import cut


class Reflection(ShapedAttack, ReflectionAttack):
    """Poisons training with a patch that shows pieces of the reflections, out of many, that a model learns best."""

    name = "reflection"
    aliases = ("rb", "reflection_backdoor")
    variants = ("reflection[kept=3]",)

    trigger_position: Corner | Place = Field(
        "top_left", description="corner, center, or [row, column] of the patch's top left"
    )

    def check(self, task: Task) -> None:
        """Refuse a patch that does not fit."""
        self.mask(task.train.shape, 0, self.trigger_position)
        super().check(task)

    def reflection(self, layers: Tensor, seed: int, random: torch.Generator) -> ReflectionTrigger:
        """Return a trigger that shows a piece of each layer."""
        _, channels, height, width = layers.shape
        mask = self.mask((channels, height, width), seed, self.trigger_position)
        return ReflectionTrigger(cut(layers, mask, random), mask, transparency=self.transparency)
