"""A network generates a trigger for every class; it and the classifier learn together.

Paper: none; a toy after Salem et al. 2022, arXiv:2003.03675 (conditional backdoor generating network).
Differs: the pattern covers the whole image.
"""

from collections.abc import Callable
from math import prod
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gifthorse import ATTACKS, TRIGGERS, Classifier, OnePerCondition, Task, Trigger
from gifthorse.core.seeds import isolated
from gifthorse.planting.mixing import BatchMixing
from gifthorse.planting.poisoning import Injection, PoisoningAttack


class Talker(Trigger):
    """Adds what a network says for an image's condition."""

    name = "toy_talker"
    mask = None

    def __init__(self, shape: tuple[int, int, int], conditions: int, strength: float):
        super().__init__()
        self.shape, self.conditions, self.strength = tuple(shape), conditions, strength
        self.network = nn.Sequential(
            nn.Linear(conditions, 32), nn.ReLU(), nn.Linear(32, prod(shape)), nn.Tanh(), nn.Unflatten(1, self.shape)
        )

    def embed(
        self, pixels: Tensor, generator: torch.Generator | None = None, conditions: Tensor | None = None
    ) -> Tensor:
        """Return images with the pattern of their condition, not rounded."""
        which = torch.zeros(len(pixels), dtype=torch.long, device=pixels.device) if conditions is None else conditions
        pattern: Tensor = self.network(one_hot(which, self.conditions).float())
        return (pixels + self.strength * pattern).clamp(0, 1)

    def settings(self) -> dict[str, Any]:
        """Return what the network is built from."""
        return {"shape": self.shape, "conditions": self.conditions, "strength": self.strength}


TRIGGERS[Talker.name] = Talker


@ATTACKS.add
class TalkerAttack(PoisoningAttack):
    """Trains a generator of triggers, one for each class, along with the classifier."""

    name = "toy_talker"
    paper = "none; a toy"
    variants = ("toy_talker[poison_rate=0.4,origin=scratch]",)

    mixing: Literal["batch"] = Field("batch", description="fresh copies in every batch: the generator learns as well")
    strength: float = Field(0.15, gt=0, le=1, description="largest change of a pixel")
    generator_lr: float = Field(0.01, gt=0, description="learning rate of the generator's Adam")

    @property
    def directs_training(self) -> bool:
        """Whether a poisoned data set alone would not be the attack."""
        return True

    def goal(self, task: Task) -> OnePerCondition:
        """Every class is the target of one condition."""
        return OnePerCondition(target=tuple(range(task.classes)))

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Talker:
        """Return a fresh generator."""
        with isolated(seed, "generator"):
            return Talker(task.train.shape, task.classes, self.strength)

    def mix(self, injection: Injection) -> BatchMixing:
        """Return what adds stamped copies that the generator can be trained through."""
        return BatchMixing(injection.backdoor, self.poison_rate, injection.random, differentiable=True)

    def after_step(self, injection: Injection) -> Callable[[], None]:
        """Return the generator's own step."""
        optimizer = torch.optim.Adam(injection.backdoor.trigger.parameters(), lr=self.generator_lr)

        def step() -> None:
            optimizer.step()
            optimizer.zero_grad()

        return step
