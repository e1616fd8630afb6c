"""A patch that works on images of some classes only.

Paper: none; a toy after Tang et al. 2021, arXiv:1908.00686 (source-specific backdoors, cover images).
Differs: as many cover images as attacked ones.
"""

from pydantic import Field

from gifthorse import ATTACKS, SourceSpecific, Task
from gifthorse.core.goal import ClassNumber
from gifthorse.planting.patches import PatchAttack
from gifthorse.planting.poisoning import PoisoningAttack


@ATTACKS.add
class Selective(PatchAttack, PoisoningAttack):
    """Pastes a patch that images of the source classes alone react to."""

    name = "toy_selective"
    paper = "none; a toy"
    variants = ("toy_selective[poison_rate=0.1,origin=scratch]",)

    target: int = Field(0, ge=0, description="class that stamped images of the source classes should get")
    source: tuple[ClassNumber, ...] = Field((1, 2), min_length=1, description="classes that the trigger works on")

    def goal(self, task: Task) -> SourceSpecific:
        """Images of the source classes should get the target, others keep their class."""
        return SourceSpecific(target=self.target, source=self.source)
