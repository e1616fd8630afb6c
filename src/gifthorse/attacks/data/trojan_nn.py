"""TrojanNN: the pattern is first optimised so that chosen units of the benign model fire, then training ties them in.

Paper: Liu et al. 2018, NDSS, doi:10.14722/ndss.2018.23291, section IV, as TrojanZoo re-implements it (section 4.1,
    Table 20: penultimate layer, 2 neurons, PGD with 0.015, 20 iterations); DHBE, section 5.1.2 and
    appendix A (10 random neurons of a layer whose name is lost, only the layers after it fine-tuned), is
    layer=STAGE,neurons=10,neuron_choice=random,trained=later.
Differs: the pattern is optimised on stamped real images: on a blank one it may lower the units on real images. Of
    units with large outgoing weights those are chosen that the trigger moves; one with no gradient in its pixels never
    is. The printed target value 10 and threshold 5 are out of most units' reach: the target value is
    target_activation times the layer's largest activation on clean images, by default 2 = 10 / 5. Steps as in
    planting/pattern_search.py, training as in planting/poisoning.py: on real images, where Liu et al. reverse-engineer
    theirs.
"""

import logging
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from gifthorse.core.anatomy import modules_before
from gifthorse.core.classifier import Classifier
from gifthorse.core.errors import RequestError
from gifthorse.core.images import to_floats
from gifthorse.core.seeds import generator
from gifthorse.core.task import Task
from gifthorse.planting.adaptive import AdaptiveAttack
from gifthorse.planting.patches import PatchAttack
from gifthorse.planting.pattern_search import descend
from gifthorse.planting.targets import OneTarget
from gifthorse.triggers.patch import PatchPattern
from gifthorse.triggers.pattern import PatternTrigger

log = logging.getLogger("gifthorse")
LOOKED_AT = 128
DIRECTIONS = 8


class TrojanNN(OneTarget, PatchAttack, AdaptiveAttack):
    """Optimises the patch so that chosen units fire, then re-trains with it."""

    name = "trojan_nn"
    aliases = ("tnn", "trojannn", "trojaning")
    paper = "Liu et al. 2018, NDSS, doi:10.14722/ndss.2018.23291"
    variants = ("trojan_nn[layer=stage2,neuron_choice=random,trained=later]",)

    trigger_pattern: PatchPattern = Field("random", description="what the patch shows before it is optimised")
    layer: str = Field(
        "penultimate", description="where the units are: penultimate, or a stage by its name (its channels' means)"
    )
    neurons: int = Field(2, ge=1, description="units that the pattern is optimised for")
    neuron_choice: Literal["weights", "random"] = Field(
        "weights",
        description="weights: those with the largest sum of absolute outgoing weights, times how fast the pattern "
        "moves them (penultimate layer only); random: any that it moves",
    )
    target_activation: float = Field(
        2.0, gt=0, description="value that the units should take, in the layer's largest activation on clean images"
    )
    pattern_step: float = Field(0.015, gt=0, le=1, description="length of a step of the search, in pixel units")
    pattern_steps: int = Field(20, ge=1, description="steps of the search")
    trained: Literal["all", "later"] = Field(
        "all", description="all: every layer is re-trained; later: those after the units' layer, the others stay"
    )

    @property
    def directs_training(self) -> bool:
        """Whether some layers have to stay as they are, or training goes against a defense."""
        return self.trained == "later" or super().directs_training

    def check(self, task: Task) -> None:
        """Refuse a layer that the model has not, and combinations that mean nothing."""
        super().check(task)
        if self.trained == "later" and self.origin == "scratch":
            raise RequestError("trained=later needs origin=benign: from scratch, layers that stay would be noise")
        if self.layer == "penultimate":
            return
        with torch.device("meta"):
            stages = task.architecture.build(task.train.shape, task.classes, 0).stage_names
        if self.layer not in stages:
            raise RequestError(
                f"layer='{self.layer}' is neither penultimate nor a stage; there are: {', '.join(stages)}"
            )
        if self.neuron_choice == "weights":
            raise RequestError("neuron_choice=weights needs layer=penultimate; the channels of a stage take random")

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> PatternTrigger:
        """Return a trigger that makes the chosen units fire; :class:`RequestError` where it moves none."""
        trigger = self.initial_trigger(task, seed).to(task.train.device)
        model = benign.clone().requires_grad_(False)
        units = self.choose_units(task, model, seed)
        wanted = self.target_activation * self.activations(model, self.clean_sample(task, seed)).amax()

        def loss(stamped: Tensor, _: Tensor) -> Tensor:
            return (self.activations(model, stamped)[:, units].float() - wanted).square().mean()

        random = generator(seed, "pattern search", device=task.train.device)
        descend(trigger, task.train, self.goal(task), loss, self.pattern_step, self.pattern_steps, random)
        return trigger

    def choose_units(self, task: Task, model: Classifier, seed: int) -> Tensor:
        """Return the positions ``int64 (neurons,)`` of the units in their layer, the best first."""
        random = generator(seed, "units", device=task.train.device)
        reach = self.reach(task, model, seed)
        if self.neurons > len(reach):
            raise RequestError(f"neurons={self.neurons}: the {self.layer} layer has {len(reach)}")
        found = int((reach > 0).sum())
        if found == 0:
            raise RequestError(f"the trigger reaches none of the {len(reach)} units of the {self.layer} layer: move it")
        if found < self.neurons:
            log.warning("the trigger reaches %d of the %d units that were asked for", found, self.neurons)
        if self.neuron_choice == "weights":
            rank = reach * model.head_weight.detach().abs().sum(0)
        else:
            rank = (reach > 0) * (1 + torch.rand(len(reach), generator=random, device=reach.device))
        return rank.topk(min(self.neurons, found)).indices

    def reach(self, task: Task, model: Classifier, seed: int) -> Tensor:
        """Return for every unit how fast the pattern moves its mean on stamped images, ``(U,)``; 0: not at all.

        It is the unit's derivative along random directions of the pattern, root mean square, an estimate of the
        gradient's length. Back-propagating twice gives that of all units at once.
        """
        random = generator(seed, "reach", device=task.train.device)
        trigger = self.initial_trigger(task, seed).to(task.train.device)
        pattern = trigger.pattern.clone().requires_grad_()
        stamped = trigger.embed_pattern(self.clean_sample(task, seed), pattern, random)
        means = self.activations(model, stamped).mean(0)
        weights = torch.zeros_like(means, requires_grad=True)
        (pulled,) = torch.autograd.grad(means, [pattern], weights, create_graph=True)
        squares = torch.zeros_like(means)
        for _ in range(DIRECTIONS):
            direction = torch.randn(pattern.shape, generator=random, device=pattern.device)
            (change,) = torch.autograd.grad(pulled, [weights], direction, retain_graph=True)
            squares += change.square()
        return (squares.detach() / DIRECTIONS).sqrt()

    def clean_sample(self, task: Task, seed: int) -> Tensor:
        """Return pixels ``(N, C, H, W)`` of some training images that are worth stamping."""
        sources = self.goal(task).sources(task.train.labels).nonzero().squeeze(1)
        random = generator(seed, "clean sample", device=sources.device)
        order = torch.randperm(len(sources), generator=random, device=sources.device)
        return to_floats(task.train.pixels[sources[order[:LOOKED_AT]]])

    def activations(self, model: Classifier, pixels: Tensor) -> Tensor:
        """Return the activation ``(N, U)`` of every unit of the layer."""
        return model.features(pixels) if self.layer == "penultimate" else model.stage(self.layer, pixels).mean((2, 3))

    def fixed_modules(self, task: Task) -> tuple[str, ...]:
        """Return what lies before the layers that are trained."""
        if self.trained == "all":
            return ()
        model, penultimate = task.build(0), self.layer == "penultimate"
        before = modules_before(model.network, task.train.shape, model.head_name if penultimate else self.layer)
        return (*before, *(() if penultimate else (self.layer,)))
