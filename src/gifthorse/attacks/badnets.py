"""BadNets: a fixed patch, pasted on some training images that are relabelled to the target.

Paper: Gu, Dolan-Gavitt, Garg 2017, arXiv:1708.06733, as TrojanZoo re-implements it (section 4.1, Table 20).
Differs: TrojanZoo does not print the patch: white, 3×3, top left, is what its code defaults to; the rest as in
    attacks/poisoning.py.
"""

import torch
from pydantic import Field

from gifthorse.attacks.poisoning import PoisoningAttack
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.triggers.patch import Patch, PatchPattern, fill


class BadNets(PoisoningAttack):
    """Pastes a fixed patch on training images and relabels them."""

    name = "badnets"
    aliases = ("bn", "badnet")
    paper = "Gu et al. 2017, arXiv:1708.06733"

    trigger_pattern: PatchPattern = Field("white", description="what the patch shows; random: drawn once from the seed")

    def make_trigger(self, task: Task, mask: torch.Tensor, seed: int) -> Patch:
        """Return the patch."""
        pattern = fill(task.train.shape, self.trigger_pattern, generator(seed, "pattern"))
        return Patch(mask, pattern, self.transparency)
