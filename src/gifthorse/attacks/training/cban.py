"""Conditional backdoor generating network: the network is told the class that its pattern is for.

Paper: Dynamic Backdoors (Salem et al. 2020, arXiv:2003.03675), section 3.3: all targets share their locations.
Differs: nothing beyond planting/generated.py and triggers/generated_patch.py.
"""

from typing import Literal

from pydantic import Field

from gifthorse.core.goal import ClassNumber
from gifthorse.planting.generated import GeneratedAttack


class CBan(GeneratedAttack):
    """Trains a network that makes triggers for each target class together with the model."""

    name = "cban"
    aliases = ("c_ban", "conditional_backdoor_generating_network")
    paper = "Salem et al. 2020, arXiv:2003.03675"
    variants = ("cban[target=[0,1],trigger_size=image,transparency=0.85]",)

    target: ClassNumber | tuple[ClassNumber, ...] | Literal["all"] = Field(
        "all", description="all: every class, as the trigger says; [0,3,7]: one of these; one class: that"
    )
    disjoint: bool = Field(False, description="whether each target has locations of its own")

    @property
    def told(self) -> bool:
        """Whether the network is told which target its pattern is for: yes."""
        return True
