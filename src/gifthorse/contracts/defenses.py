"""Promises of every defense and of what it hands back, kept on tiny worlds of noise or on another."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gifthorse.bench.views import VIEWS, builder_of, materials_of, view_of
from gifthorse.contracts.promise import BrokenPromiseError, NotAskedError, Promise, asked, require
from gifthorse.contracts.truth import leaks
from gifthorse.contracts.worlds import COLOUR, GREY, SHAPES, World, cut_short, noise_world, watched_random_state
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.defense import Defense, outcome_of
from gifthorse.core.errors import RequestError
from gifthorse.core.family import FAMILIES
from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel, InputScreen, ModelVerdict, Outcome, SuspectSamples
from gifthorse.core.views import DataFreeView, SuspectDataView
from gifthorse.metrics.judge import answers, kind_of

SHOWN = 12
"""How many images an outcome is asked about."""


@dataclass(frozen=True, eq=False)
class Defended:
    """A view and what it was before a defense looked at it, what the defense handed back, and what that answers.

    The view is of a model that was ``given`` in training mode, with some weights frozen; its ``numbers`` and
    ``standing`` are what they were before.
    """

    given: Classifier
    numbers: list[Tensor]
    standing: list[list[bool]]
    view: DataFreeView
    before: list[Tensor]
    outcome: Outcome
    answers: dict[str, Tensor]


class DefenseCase:
    """A defense that is asked about, and what came of it on a world."""

    def __init__(self, defense: Defense[Any], make_world: Callable[[], World]):
        try:
            self.defense = cut_short(defense)
        except RequestError:
            self.defense = defense
        self._make_world = make_world
        self._prepared: dict[World, dict[str, Tensor]] = {}

    @cached_property
    def world(self) -> World:
        """Where it is asked, made when it first is: in colour where it has nothing to do with grey images."""
        world = self._make_world()
        if world.task.test.shape[0] == 1 and self.skips(world) and not self.skips(coloured := noise_world(COLOUR)):
            return coloured
        return world

    def skips(self, world: World) -> bool:
        """Return whether the defense says of a world's images that it cannot be applied."""
        try:
            self.view(world)
        except NotAskedError:
            return True
        return False

    @cached_property
    def done(self) -> Defended:
        """What came of it with seed 0."""
        world = self.world
        given = world.trojan.model.clone().train()
        given.head.requires_grad_(False)
        numbers, standing_before = [each.clone() for each in tensors_of(given)], standing(given)
        view = self.view(world, given)
        before = state_of(view)
        outcome = self.defense.defend(view, 0)
        return Defended(given, numbers, standing_before, view, before, outcome, answers(outcome, self.shown))

    @property
    def shown(self) -> Tensor:
        """The images that an outcome is asked about."""
        return self.world.task.test.floats()[:SHOWN]

    def view(self, world: World, model: Classifier | None = None) -> DataFreeView:
        """Return what the defense sees of a world; :class:`NotAskedError` where it sees or does nothing.

        ``model`` is shown in the trojan's place.
        """
        trojan = world.trojan if model is None else replace(world.trojan, model=model)
        try:
            view = view_of(self.defense, trojan, world.task)
        except RequestError as error:
            raise NotAskedError(str(error)) from error
        reason = view if isinstance(view, str) else self.defense.skip(view)
        if isinstance(view, str) or reason is not None:
            images = world.task.train
            raise NotAskedError(f"it skips a model of {'×'.join(map(str, images.shape))} images: {reason}")
        if self.defense.preparation() is None:
            return view
        if world not in self._prepared:
            self._prepared[world] = self.defense.prepare(materials_of(self.defense, world.task), 0)
        return replace(view, prepared=self._prepared[world])


def defense_promises(defense: Defense[Any], make_world: Callable[[], World] = noise_world) -> list[Promise]:
    """Return what is promised of a defense, on a world of noise unless another is given."""
    questions = OF_DEFENSES if defense.preparation() is None else (*OF_DEFENSES, prepares_the_same)
    return asked(defense, DefenseCase(defense, make_world), questions)


def images_in(view: DataFreeView) -> dict[str, Images]:
    """Return the sets of images that a view shows, by the name of its field."""
    held = {field.name: getattr(view, field.name) for field in fields(view)}
    return {name: item for name, item in held.items() if isinstance(item, Images)}


def state_of(view: DataFreeView) -> list[Tensor]:
    """Return a copy of everything that a defense could write to."""
    tensors = tensors_of(view.model)
    tensors += [tensor for images in images_in(view).values() for tensor in (images.pixels, images.labels)]
    return [tensor.clone() for tensor in tensors]


def tensors_of(model: Classifier) -> list[Tensor]:
    """Return the weights and all buffers of a model, those that are never saved as well."""
    return [*(weight.detach() for weight in model.parameters()), *model.buffers()]


def standing(model: Classifier) -> list[list[bool]]:
    """Return what is set of a model beside its numbers: its parts' modes, and which weights are trained."""
    return [[part.training for part in model.modules()], [weight.requires_grad for weight in model.parameters()]]


def hooks_of(model: nn.Module) -> int:
    """Return how many hooks a model has."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def is_of_a_declared_family_and_view(case: DefenseCase) -> None:
    """Its family is declared, it is known how its view is built, and how its outcome is judged."""
    defense = case.defense
    family = defense.judged_as()
    require(family in FAMILIES, f"no family is called '{family}'; there are {', '.join(FAMILIES)}")
    require(bool(FAMILIES[family].columns), f"the family '{family}' has no table that its results could stand in")
    outcome = outcome_of(type(defense))
    try:
        builder_of(defense.sees())
        if outcome not in (None, Outcome):
            kind_of(outcome)
    except (RequestError, TypeError) as error:
        raise BrokenPromiseError(str(error)) from error


def leaves_the_view_as_it_was(case: DefenseCase) -> None:
    """The view's model and images are left as they were, and so is the model that was handed in, in any mode."""
    done = case.done
    same = all(torch.equal(now, then) for now, then in zip(state_of(done.view), done.before, strict=True))
    require(same, "it writes to the view's model or images; work on view.model.clone()")
    model = done.view.model
    require(not any(standing(model)[0]), "it leaves the view's model in training mode")
    require(all(standing(model)[1]), "it leaves parameters of the view's model frozen")
    require(all(each.grad is None for each in model.parameters()), "it leaves gradients in the view's model")
    numbers = zip(tensors_of(done.given), done.numbers, strict=True)
    untouched = standing(done.given) == done.standing and all(torch.equal(now, then) for now, then in numbers)
    require(untouched, "it changes the model that was handed in, which the view has a copy of")


def removes_its_hooks(case: DefenseCase) -> None:
    """No hook stays on the view's model."""
    left = hooks_of(case.done.view.model)
    require(left == 0, f"it leaves {left} hooks on the view's model")


def has_no_path_to_the_truth(case: DefenseCase) -> None:
    """Nothing of task, trojan, trigger or hidden images can be reached from what it sees."""
    found = leaks(case.done.view, case.world.trojan, case.world.task)
    kinds = ", ".join(sorted({type(each).__name__ for each in found}))
    require(not found, f"from its {type(case.done.view).__name__} it can reach: {kinds}")


def same_seed_same_outcome_whatever_the_global_random_state(case: DefenseCase) -> None:
    """The same seed gives the same answers, whatever the global random state, which is left alone."""
    first, view = case.done.answers, case.view(case.world)
    with watched_random_state():
        second = answers(case.defense.defend(view, 0), case.shown)
    require(first.keys() == second.keys(), "two runs with the same seed answer different things")
    differ = [name for name in first if not torch.equal(first[name], second[name])]
    require(not differ, f"two runs with the same seed differ in: {', '.join(differ)}")


def runs_on_any_image_shape(case: DefenseCase) -> None:
    """It runs on coloured and oblong images, and on grey ones or skips these; all that it answers is finite."""
    if case.defense.sees() not in VIEWS:
        raise NotAskedError(f"how a {case.defense.sees().__name__} is built is not known")
    for shape in SHAPES:
        size, world = "×".join(map(str, shape)), noise_world(shape)
        if shape == GREY and case.skips(world):
            continue
        try:
            outcome = case.defense.defend(case.view(world), 0)
            found = answers(outcome, world.task.test.floats())
        except NotAskedError as error:
            raise BrokenPromiseError(str(error)) from error
        except Exception as error:
            raise BrokenPromiseError(f"on images of {size}: {type(error).__name__}: {error}") from error
        infinite = [name for name, answer in found.items() if not bool(answer.isfinite().all())]
        require(not infinite, f"on images of {size} it answers what is not finite: {', '.join(infinite)}")


def skips_with_a_sentence_what_it_cannot_do(case: DefenseCase) -> None:
    """Without a single image it says in skip that it cannot be applied, and does not raise."""
    view = case.done.view
    emptied: dict[str, Any] = {name: images.take(slice(0)) for name, images in images_in(view).items()}
    if not emptied:
        require(case.defense.skip(view) is None, "it skips a view that it has just looked at")
        return
    try:
        reason = case.defense.skip(replace(view, **emptied))
    except Exception as error:
        raise BrokenPromiseError(f"without images skip() raises {type(error).__name__}: {error}") from error
    require(bool(reason), "without images it does not skip")
    require("image" in str(reason), f"without images it skips for another reason: {reason}")


def hands_back_what_it_says(case: DefenseCase) -> None:
    """defend() declares what it returns, and returns it."""
    declared = outcome_of(type(case.defense))
    if declared is None:
        raise BrokenPromiseError("defend() does not declare what outcome it returns")
    found = type(case.done.outcome)
    require(issubclass(found, declared), f"defend() declares {declared.__name__} and returns {found.__name__}")


def says_the_same_of_one_image_as_of_many(case: DefenseCase) -> None:
    """What it says of an image does not depend on the others in the batch."""
    done = case.done
    for name in kind_of(type(done.outcome)).per_image:
        alone = torch.cat([answers(done.outcome, pixel[None])[name] for pixel in case.shown])
        near = alone.shape == done.answers[name].shape and torch.allclose(alone, done.answers[name], 1e-4, 1e-4)
        require(near, f"its {name} of an image depend on what else is in the batch")


def its_answer_is_sound(case: DefenseCase) -> None:
    """What it hands back has the shapes, the mode and the meaning that its kind of outcome asks for."""
    outcome = case.done.outcome
    for kind, ask in SOUND.items():
        if isinstance(outcome, kind):
            ask(outcome, case)


def _clean_model(outcome: CleanModel, case: DefenseCase) -> None:
    _answers_in_logits(outcome.model, case)


def _screen(outcome: InputScreen, case: DefenseCase) -> None:
    threshold, pixels = outcome.threshold, case.world.task.test.floats()[:40]
    scores = outcome.score(pixels)
    require(scores.shape == (len(pixels),), f"scores of {len(pixels)} images are {tuple(scores.shape)}")
    outcome.score(torch.zeros_like(pixels))
    require(outcome.threshold == threshold, "its threshold moves with what is scored")
    require(torch.equal(outcome.score(pixels), scores), "the same images get other scores the second time")
    flipped = outcome.score(pixels.flip(0)).flip(0)
    require(torch.allclose(flipped, scores, 1e-4, 1e-4), "a score depends on the order of the images")


def _verdict(outcome: ModelVerdict, case: DefenseCase) -> None:
    if outcome.scores is not None:
        classes = case.world.task.classes
        require(outcome.scores.shape == (classes,), f"scores of {classes} classes are {tuple(outcome.scores.shape)}")
        first = int(outcome.scores.argmax())
        require(outcome.suspect in (None, first), f"class {outcome.suspect} is suspect, and {first} scores highest")


def _samples(outcome: SuspectSamples, case: DefenseCase) -> None:
    if isinstance(case.done.view, SuspectDataView):
        count = len(case.done.view.suspect)
        require(outcome.scores.shape == (count,), f"scores of {count} images are {tuple(outcome.scores.shape)}")
    require(outcome.removed.dtype == torch.bool, f"removed is {outcome.removed.dtype}, not bool")
    require(outcome.removed.shape == outcome.scores.shape, "removed and scores are of different lengths")
    _answers_in_logits(outcome.model, case)


def _answers_in_logits(model: nn.Module, case: DefenseCase) -> None:
    task = case.world.task
    require(not model.training, "the model is in training mode")
    logits = predict(model, task.test)
    right = logits.shape == (len(task.test), task.classes)
    require(right, f"the model answers {len(task.test)} images with {tuple(logits.shape)}, not a logit per class")
    require(bool(logits.isfinite().all()), "the model's logits are not finite")


SOUND: dict[type[Outcome], Callable[[Any, DefenseCase], None]] = {
    CleanModel: _clean_model,
    InputScreen: _screen,
    ModelVerdict: _verdict,
    SuspectSamples: _samples,
}
"""What is asked of each kind of outcome."""


def prepares_the_same(case: DefenseCase) -> None:
    """The same seed prepares the same, whatever the global random state, and the materials are left alone."""
    world = noise_world(GREY)
    first = case.view(world).prepared
    materials = materials_of(case.defense, world.task)
    before = materials.clean.pixels.clone()
    with watched_random_state():
        second = case.defense.prepare(materials, 0)
    same = first.keys() == second.keys() and all(torch.equal(first[part], second[part]) for part in first)
    require(same, "two runs with the same seed prepare different things")
    require(torch.equal(materials.clean.pixels, before), "it changes the images that it prepares from")


OF_DEFENSES = (
    is_of_a_declared_family_and_view,
    leaves_the_view_as_it_was,
    removes_its_hooks,
    has_no_path_to_the_truth,
    same_seed_same_outcome_whatever_the_global_random_state,
    runs_on_any_image_shape,
    skips_with_a_sentence_what_it_cannot_do,
    hands_back_what_it_says,
    says_the_same_of_one_image_as_of_many,
    its_answer_is_sound,
)
