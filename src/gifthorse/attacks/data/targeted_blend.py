"""Targeted backdoor: the patch lies somewhere else on every poisoned image, so that it works anywhere.

Paper: Chen et al. 2017, arXiv:1712.05526, as TrojanZoo re-implements it (section 4.1: a random position for every
    training input).
Differs: the source's blended and accessory triggers are settings (transparency, trigger_image, trigger_size); the
    rest as in planting/poisoning.py.
"""

from typing import Literal

from pydantic import Field

from gifthorse.planting.patches import Place
from gifthorse.planting.pattern_search import PatternAttack


class TargetedBlend(PatternAttack):
    """Pastes a patch at a new random place on every training image it relabels."""

    name = "targeted_blend"
    aliases = ("tb", "targeted_backdoor")
    paper = "Chen et al. 2017, arXiv:1712.05526"
    variants = ("targeted_blend[trigger_position=[[0,0],[5,5]]]",)

    trigger_position: Literal["random"] | tuple[Place, ...] = Field(
        "random", description="random: anywhere, new for every image; [[row, column], ...]: one of these"
    )
