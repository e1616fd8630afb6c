"""Refool: reflections of other pictures in a window pane lie over whole images.

Paper: Liu et al. 2020, arXiv:2007.02343, sections 3.1 and 3.2: refool[labels=clean,mixing=dataset,poison_rate=0.4,
    kept=10] stamps images of the target class and keeps their labels. The defaults are TrojanZoo's (relabelled copies,
    one reflection), on equal terms with the other attacks.
Differs: the weight of the image's own light is one number (Liu et al.: drawn for every pair from 0.55 to 0.95), and
    blurred reflections are not dimmed at bright spots and borders, as the authors' code does. The rest as in
    planting/reflections.py.
"""

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.planting.reflections import ReflectionAttack
from gifthorse.triggers.reflection import Reflection


class Refool(ReflectionAttack):
    """Poisons training with whole images behind the reflections, out of many, that a model learns best."""

    name = "refool"
    variants = ("refool[labels=clean,mixing=dataset,poison_rate=0.4]",)

    image_weight: float = Field(
        0.75, ge=0, lt=1, description="weight of the image's own light, the reflection has the rest"
    )
    transparency: float = Field(0.0, ge=0, lt=1, description="α of the trigger: 0 opaque, towards 1 invisible")

    def reflection(self, layers: Tensor, seed: int, random: torch.Generator) -> Reflection:  # noqa: ARG002
        """Return a trigger that shows each layer, over the whole image."""
        return Reflection(layers, image_weight=self.image_weight, transparency=self.transparency)
