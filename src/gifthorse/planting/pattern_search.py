"""Optimising the pattern that a trigger shows, before training or together with it.

Paper: TrojanZoo, section 6.2 RQ7 (pre-defined, partially optimised, co-optimised triggers); Pang et al. 2020,
    arXiv:1911.01559, section 4 (input-model co-optimisation); Table 20 (PGD, 20/255, 20 iterations); RQ5 (γ = 0.5 for
    gradients through skip connections).
Differs: the table does not say how many images a step sees: one batch of 32. Steps go along the gradient's sign, in
    evaluation mode, so that the search leaves batch normalisation alone; the last one is followed by an epoch of
    training. Gradients through skips are decayed in the search alone, not in training.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from gifthorse.core.classifier import Classifier
from gifthorse.core.goal import Goal
from gifthorse.core.images import Images, to_floats
from gifthorse.core.seeds import derive, generator
from gifthorse.core.task import Task
from gifthorse.planting.adaptive import AdaptiveAttack
from gifthorse.planting.patches import PatchAttack
from gifthorse.planting.poisoning import Injection
from gifthorse.planting.skip_gradient import residual_branches, skip_gradient_decay
from gifthorse.planting.targets import AnyGoal
from gifthorse.training.precision import fast_arithmetic
from gifthorse.triggers.pattern import PatternTrigger

SEEN = 32


class PatternAttack(AnyGoal, PatchAttack, AdaptiveAttack):
    """A poisoning attack whose pattern may be optimised."""

    optimisation: Literal["none", "before", "joint"] = Field(
        "none",
        description="none: the pattern stays as given; before: optimised once on the benign model; joint: before every "
        "epoch, on the model as it is then",
    )
    pattern_step: float = Field(20 / 255, gt=0, le=1, description="length of a step of the search, in pixel units")
    pattern_steps: int = Field(20, ge=1, description="steps of the search, before training or before every epoch")
    skip_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="γ: gradients of the search through a residual network's skips are multiplied by it",
    )

    def check(self, task: Task) -> None:
        """Refuse what cannot be stamped or poisoned, and a decay of skips that a network has not."""
        super().check(task)
        if self.skip_decay < 1:
            residual_branches(task.build(0))

    @property
    def directs_training(self) -> bool:
        """Whether the pattern changes while the model is trained, or training goes against a defense."""
        return self.optimisation == "joint" or super().directs_training

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> PatternTrigger:
        """Return the trigger, its pattern optimised on the benign model if that is asked for."""
        trigger = self.initial_trigger(task, seed).to(task.train.device)
        if self.optimisation == "before":
            random = generator(seed, "pattern search", device=task.train.device)
            self.search(trigger, benign.clone(), task.train, self.goal(task), random)
        return trigger

    def before_epoch(self, injection: Injection) -> Callable[[int], None] | None:
        """Return the search that goes along with training."""
        trigger, model = injection.backdoor.trigger, injection.model
        if self.optimisation != "joint":
            return None
        assert isinstance(trigger, PatternTrigger)
        reforms = () if injection.adaptation is None else injection.adaptation.reforms
        random = generator(derive(injection.seed, "pattern search"), device=injection.images.device)

        def search(_: int) -> None:
            model.eval()
            self.search(trigger, model, injection.images, injection.backdoor.goal, random, reforms)
            model.train()

        return search

    def search(
        self,
        trigger: PatternTrigger,
        model: Classifier,
        images: Images,
        goal: Goal,
        random: torch.Generator,
        reforms: Sequence[Callable[[Tensor], Tensor]] = (),
    ) -> None:
        """Move the trigger's pattern, in place, towards one that sends images of other classes to their targets.

        With ``reforms`` also as each of these leaves the stamped images.
        """

        def loss(stamped: Tensor, labels: Tensor) -> Tensor:
            shown = torch.cat([stamped, *(reform(stamped) for reform in reforms)])
            return cross_entropy(model(shown).float(), goal.targets(labels).repeat(1 + len(reforms)))

        decayed = self.skip_decay < 1
        with skip_gradient_decay(model, self.skip_decay, through="skip") if decayed else nullcontext():
            descend(trigger, images, goal, loss, self.pattern_step, self.pattern_steps, random)


def descend(
    trigger: PatternTrigger,
    images: Images,
    goal: Goal,
    loss: Callable[[Tensor, Tensor], Tensor],
    step: float,
    steps: int,
    random: torch.Generator,
) -> None:
    """Move the trigger's pattern, in place, along the sign of the gradient of a loss, within [0,1].

    ``loss`` gives a scalar for stamped pixels ``(N, C, H, W)`` and their true labels ``(N,)``; every step draws them
    anew from the goal's sources among ``images``.
    """
    sources = goal.sources(images.labels).nonzero().squeeze(1)
    pattern = trigger.pattern.clone()
    for _ in range(steps):
        drawn = torch.randint(len(sources), (SEEN,), generator=random, device=images.device)
        chosen = images.take(sources[drawn])
        pattern.requires_grad_()
        with fast_arithmetic(images.device):
            value = loss(trigger.embed_pattern(to_floats(chosen.pixels), pattern, random), chosen.labels)
        (gradient,) = torch.autograd.grad(value, [pattern])
        pattern = (pattern.detach() - step * gradient.sign()).clamp(0, 1)
    trigger.show(pattern)
