"""Random backdoor: fresh noise at one of some places on every image, and the place says which class is meant.

Paper: Dynamic Backdoors (Salem et al. 2020, arXiv:2003.03675), section 3.1. Poisoning alone (section 4.8) is
    mixing=dataset,poison_rate=0.1.
Differs: of other distributions, which the section mentions, the Gaussian is here, around grey, its deviation ours. The
    rest as in planting/dynamic.py.
"""

from pydantic import Field
from torch import Tensor

from gifthorse.core.task import Task
from gifthorse.planting.dynamic import DynamicAttack
from gifthorse.triggers.noise_patch import Distribution, NoisePatch


class RandomBackdoor(DynamicAttack):
    """Stamps a patch of fresh noise at one of some places."""

    name = "random_backdoor"
    aliases = ("random",)
    paper = "Salem et al. 2020, arXiv:2003.03675"
    variants = (
        "random_backdoor[target=[0,1,2]]",
        "random_backdoor[distribution=gaussian,mixing=dataset]",
    )

    distribution: Distribution = Field("uniform", description="of the noise: uniform, or gaussian around grey")
    deviation: float = Field(0.25, gt=0, description="standard deviation of Gaussian noise, in pixel units")

    def placed_trigger(self, task: Task, places: Tensor, size: tuple[int, int, int], seed: int) -> NoisePatch:  # noqa: ARG002
        """Return noise, fresh on every image."""
        return NoisePatch(places, size, self.transparency, self.distribution, self.deviation)
