"""A patch that is trained to look harmless to one defense, whichever says how it is evaded.

Paper: none; a toy after Pang et al. 2020, arXiv:1911.01559, section 5 (adaptive attacks).
Differs: the pattern stays as it is.
"""

from typing import Any

from pydantic import Field

from gifthorse import ATTACKS, Defense
from gifthorse.defenses.filtering.strip import Strip
from gifthorse.planting.adaptive import AdaptiveAttack
from gifthorse.planting.patches import PatchAttack
from gifthorse.planting.targets import OneTarget


@ATTACKS.add
class Evasive(OneTarget, PatchAttack, AdaptiveAttack):
    """Trains against what a defense offers."""

    name = "toy_evasive"
    paper = "none; a toy"
    variants = ("toy_evasive[poison_rate=0.1,origin=scratch]",)

    against: tuple[Defense[Any], ...] = Field((Strip(),), min_length=1, description="the defenses that are evaded")
