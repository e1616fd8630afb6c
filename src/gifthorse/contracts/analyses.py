"""Promises of every analysis and of what it finds, kept on a tiny world of noise or on another."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from gifthorse.bench.views import copied
from gifthorse.contracts.defenses import standing, tensors_of
from gifthorse.contracts.promise import NotAskedError, Promise, asked, require
from gifthorse.contracts.worlds import COLOUR, World, cut_short, noise_world, watched_random_state
from gifthorse.core.analysis import Analysis, Findings, Subject
from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.findings import is_drawn
from gifthorse.core.metric import METRICS, UNDECLARED

_SHAPES = {"points": (None, 2), "against": (2, None), "profile": (None,), "distribution": (None,)}


class AnalysisCase:
    """An analysis that is asked about, and what it found on a world."""

    def __init__(self, analysis: Analysis, make_world: Callable[[], World]):
        try:
            self.analysis = cut_short(analysis)
        except RequestError:
            self.analysis = analysis
        self._make_world = make_world

    @cached_property
    def subject(self) -> Subject:
        """What it looks at: a trojan and its twin, in training mode, some of whose weights are frozen."""
        world = self._make_world()
        model, twin = world.trojan.model.clone().train(), world.trojan.twin.clone().train()
        for each in (model, twin):
            each.head.requires_grad_(False)
        return Subject(model, twin, world.trojan.backdoor, world.task)

    @cached_property
    def found(self) -> Findings:
        """What it found with seed 0."""
        return self.look(self.subject)

    def look(self, subject: Subject, seed: int = 0) -> Findings:
        """Return what it finds; :class:`NotAskedError` where it finds nothing to look at."""
        reason = self.analysis.skip(subject)
        if reason is not None:
            raise NotAskedError(reason)
        try:
            self.analysis.check(subject.task.build(0), subject.task)
            return self.analysis.look(subject, seed)
        except (NotApplicableError, RequestError) as error:
            raise NotAskedError(str(error)) from error


def analysis_promises(analysis: Analysis, make_world: Callable[[], World] = noise_world) -> list[Promise]:
    """Return what is promised of an analysis, on a world of noise unless another is given."""
    return asked(analysis, AnalysisCase(analysis, make_world), OF_ANALYSES)


def leaves_the_models_and_images_as_they_were(case: AnalysisCase) -> None:
    """What it looks at is left as it was: weights, buffers, modes, what is trained, images."""
    subject = case.subject
    images = subject.task.test.pixels.clone()
    before = [(tensor.clone(), tensor) for model in subject.models.values() for tensor in tensors_of(model)]
    stood = [standing(model) for model in subject.models.values()]
    with watched_random_state():
        case.look(subject)
    require(all(torch.equal(old, new) for old, new in before), "it changes a weight or a buffer")
    require([standing(model) for model in subject.models.values()] == stood, "it changes a mode or what is trained")
    hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in subject.model.modules())
    require(not hooks, "it leaves a hook in the model")
    require(torch.equal(subject.task.test.pixels, images), "it changes the images")


def finds_the_same_with_the_same_seed(case: AnalysisCase) -> None:
    """The same seed finds the same."""
    again = case.look(case.subject)
    require(case.found.numbers == again.numbers, "another number with the same seed")
    require(case.found.evidence.keys() == again.evidence.keys(), "other evidence with the same seed")
    same = (np.array_equal(array, again.evidence[name]) for name, array in case.found.evidence.items())
    require(all(same), "other evidence with the same seed")


def says_something_that_is_declared_and_finite(case: AnalysisCase) -> None:
    """Every number is finite and declared, in its range, and there is something to see."""
    require(bool(case.found.numbers or case.found.evidence), "it finds nothing at all")
    for name, number in case.found.numbers.items():
        metric = METRICS.find(f"analysis.{name}")
        require(metric.unit != UNDECLARED, f"analysis.{name} is not declared as a metric")
        for value in number if isinstance(number, list) else [number]:
            require(np.isfinite(value), f"{name} is {value}")
            require(metric.unit.low <= value <= metric.unit.high, f"{name} = {value} is out of its range")


def gives_evidence_that_can_be_drawn(case: AnalysisCase) -> None:
    """Every array is of a kind that reports draw, by its name and its shape, and finite but for gaps in a profile."""
    for name, array in case.found.evidence.items():
        kind = name.partition("/")[0]
        require(is_drawn(name), f"'{name}' names nothing that is drawn; see core.analysis.Findings")
        if kind == "pictures":
            require(array.dtype == np.uint8 and array.ndim == 4 and array.shape[1] in (1, 3), f"'{name}': no pictures")
            continue
        finite = np.isfinite(array)
        require(finite.any() if kind == "profile" else finite.all(), f"'{name}' is not finite")
        wanted = _SHAPES.get(kind, (case.subject.task.classes,) * 2)
        fits = array.ndim == len(wanted) and all(
            one is None or one == other for one, other in zip(wanted, array.shape, strict=True)
        )
        require(fits, f"'{name}' has the shape {array.shape}, not {wanted}")


def works_in_colour_and_says_why_where_nothing_is_planted(case: AnalysisCase) -> None:
    """It looks at images in colour, and at a benign model, or says why there is nothing to see."""
    world = noise_world(COLOUR)
    case.look(case.subject)  # one that has nothing to see in its own world is not asked about others
    # Other promises are asked on the same world.
    task = replace(world.task, test=copied(world.task.test))
    model, twin, benign = (each.clone() for each in (world.trojan.model, world.trojan.twin, world.benign))
    for subject in (Subject(model, twin, world.trojan.backdoor, task), Subject(benign, benign, None, task)):
        try:
            case.look(subject)
        except NotAskedError as reason:  # models of noise get next to nothing right
            require(len(str(reason)) > 10, "it does not say why it has nothing to see")


OF_ANALYSES = (
    leaves_the_models_and_images_as_they_were,
    finds_the_same_with_the_same_seed,
    says_something_that_is_declared_and_finite,
    gives_evidence_that_can_be_drawn,
    works_in_colour_and_says_why_where_nothing_is_planted,
)
