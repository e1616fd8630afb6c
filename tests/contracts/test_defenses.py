"""Promises of every listed defense, in each of its declared variants, and of what it hands back."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from gifthorse.bench.cell import resolve
from gifthorse.bench.views import VIEWS, builder_of, materials_for
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.defense import Defense
from gifthorse.core.errors import RequestError
from gifthorse.core.goal import Goal
from gifthorse.core.images import Images
from gifthorse.core.outcomes import CleanModel, InputScreen, ModelVerdict, Outcome
from gifthorse.core.task import Task
from gifthorse.core.trigger import Trigger
from gifthorse.core.trojan import Backdoor, DeliveredSet, Trojan
from gifthorse.core.views import DataFreeView, Materials, ModelView, Split, SuspectDataView
from gifthorse.defenses import DEFENSES
from gifthorse.inversion import reference
from gifthorse.metrics.judge import answers, kind_of
from gifthorse.training.scratch import train
from worlds import affordable, noise_task, requests, with_delivered_set

LISTED = requests(DEFENSES)
every_view = pytest.mark.parametrize("view", list(VIEWS), ids=lambda view: view.__name__)


def over(names: list[str]) -> pytest.MarkDecorator:
    """Run over these requests, each in one process: so its outcome is computed once."""
    return pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names])


every_defense = over(LISTED)


def class_of(request: str) -> type[Defense[Any]]:
    return DEFENSES.find(request.split("[")[0])


def outcome_of(cls: type[Defense[Any]]) -> type[Outcome]:
    """What the method's own signature says that it hands back."""
    found: type[Outcome] = get_type_hints(cls.defend)["return"]
    return found


ASKED: list[type[Outcome]] = []
"""The kinds of outcome that have promises of their own."""


def handing_back(outcome: type[Outcome]) -> pytest.MarkDecorator:
    ASKED.append(outcome)
    return over([name for name in LISTED if issubclass(outcome_of(class_of(name)), outcome)])


def defense_at_smoke_scale(name: str) -> Defense[Any]:
    found = resolve(dataset="digits", defense=name, profile="smoke").defense
    assert found is not None
    return affordable(found)


data_free = [name for name in LISTED if class_of(name).view is DataFreeView]
preparing = [name for name in LISTED if DEFENSES.build(name).preparation() is not None]


@pytest.fixture(scope="module", autouse=True)
def _quick_references() -> Iterator[None]:
    """What is prepared need not be good here, and trained in full it takes longer than all else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "STEPS", 40)
        yield


@pytest.fixture(scope="module")
def trojan(trojan: Trojan, task: Task) -> Trojan:
    """The shared trojan, with a training set to look at."""
    return with_delivered_set(trojan, task)


@cache
def noise_world(shape: tuple[int, int, int]) -> tuple[Trojan, Task]:
    task = noise_task(shape)
    model = train(task, 0)
    return with_delivered_set(Trojan(model, model, None), task), task


def view_of(defense: Defense[Any] | type[Defense[Any]], trojan: Trojan, task: Task) -> DataFreeView:
    view = builder_of(defense.view)(trojan, task)
    assert isinstance(view, DataFreeView), view
    if isinstance(defense, Defense) and defense.preparation() is not None:
        return replace(view, prepared=prepared_by(defense, task))
    return view


@cache
def prepared_by(defense: Defense[Any], task: Task) -> dict[str, Tensor]:
    return defense.prepare(materials_for(defense.view, task), 0)


def images_in(view: DataFreeView) -> dict[str, Images]:
    held = {field.name: getattr(view, field.name) for field in fields(view)}
    return {name: item for name, item in held.items() if isinstance(item, Images)}


def state_of(view: DataFreeView) -> list[Tensor]:
    tensors = list(view.model.state_dict().values())
    tensors += [tensor for images in images_in(view).values() for tensor in (images.pixels, images.labels)]
    return [tensor.clone() for tensor in tensors]


def hooks_of(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@dataclass(frozen=True, eq=False)
class Defended:
    """A defense of the shared trojan: its view and what that was before, and what came of it."""

    defense: Defense[Any]
    view: DataFreeView
    before: list[Tensor]
    outcome: Outcome
    answers: dict[str, Tensor]


Get = Callable[[str], Defended]


@pytest.fixture(scope="module")
def defended(trojan: Trojan, task: Task) -> Get:
    """What every defense makes of the shared trojan, once per module."""

    @cache
    def get(name: str) -> Defended:
        defense = defense_at_smoke_scale(name)
        view = view_of(defense, trojan, task)
        before = state_of(view)
        outcome = defense.defend(view, 0)
        return Defended(defense, view, before, outcome, answers(outcome, task.test.floats()[:12]))

    return get


def test_every_kind_of_outcome_and_every_view_that_a_defense_has_is_asked_about() -> None:
    """A defense must not escape its promises by handing back, or seeing, something that no promise is about."""
    own = [cls for cls in DEFENSES.values() if cls.__module__.startswith("gifthorse.")]
    unasked = {outcome_of(cls).__name__ for cls in own if not issubclass(outcome_of(cls), tuple(ASKED))}
    assert unasked == set(), "promise something of it here, under @handing_back"
    assert {cls.view for cls in DEFENSES.values()} <= set(VIEWS)


@every_defense
def test_leaves_the_view_as_it_was(name: str, defended: Get) -> None:
    done = defended(name)
    assert all(torch.equal(a, b) for a, b in zip(done.before, state_of(done.view), strict=True))
    assert not done.view.model.training
    assert all(parameter.requires_grad for parameter in done.view.model.parameters())
    assert all(parameter.grad is None for parameter in done.view.model.parameters())


@every_defense
def test_works_on_a_copy_of_the_delivered_model(name: str, trojan: Trojan, defended: Get) -> None:
    shared = {tensor.data_ptr() for tensor in trojan.model.state_dict().values()}
    assert not shared & {tensor.data_ptr() for tensor in defended(name).view.model.state_dict().values()}


@every_defense
def test_removes_its_hooks(name: str, defended: Get) -> None:
    assert hooks_of(defended(name).view.model) == 0


@every_defense
def test_removes_its_hooks_after_an_error(
    name: str, task: Task, trojan: Trojan, monkeypatch: pytest.MonkeyPatch
) -> None:
    defense = defense_at_smoke_scale(name)
    view = view_of(defense, trojan, task)
    calls = iter(range(1000))

    def forward(self: nn.Module, maps: Tensor) -> Tensor:
        if next(calls) >= 1:
            raise RuntimeError("out of memory")
        return maps.flatten(1)

    monkeypatch.setattr(nn.Flatten, "forward", forward)
    with pytest.raises(RuntimeError, match="out of memory"):
        answers(defense.defend(view, 0), task.test.floats()[:300])
    assert hooks_of(view.model) == 0


def reachable(root: object) -> list[object]:
    """Every object that can be reached from ``root`` through attributes, containers and closures."""
    seen: dict[int, object] = {}
    stack = [root]
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, (str, bytes, int, float, type)):
            continue
        seen[id(item)] = item
        if is_dataclass(item):
            stack += [getattr(item, field.name) for field in fields(item)]
        if isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            stack += list(item)
        elif callable(item) and getattr(item, "__closure__", None):
            stack += [cell.cell_contents for cell in item.__closure__]  # type: ignore[attr-defined]
        if not isinstance(item, Tensor):
            stack += list(getattr(item, "__dict__", {}).values())
    return list(seen.values())


def leaks(
    view: DataFreeView | Materials, trojan: Trojan, task: Task, holds: frozenset[Split] | None = None
) -> list[object]:
    """What of the truth can be reached from a view beyond what its type declares."""
    assert trojan.delivered is not None
    declared: frozenset[str] = view.holds if isinstance(view, DataFreeView) else holds or frozenset()
    found = reachable(view)
    leaked: list[object] = [
        item for item in found if isinstance(item, (Task, Trojan, Backdoor, Trigger, Goal, DeliveredSet))
    ]
    truth = [*vars(trojan.delivered).values(), *trojan.model.state_dict().values()]
    truth += [tensor for split in (task.train, task.holdout, task.test) for tensor in (split.pixels, split.labels)]
    own = {tensor.data_ptr() for tensor in truth}
    leaked += [item for item in found if isinstance(item, Tensor) and item.numel() and item.data_ptr() in own]
    splits = {"train": task.train, "holdout": task.holdout, "test": task.test}
    hidden = {pixel.numpy().tobytes() for name in splits.keys() - declared for pixel in splits[name].pixels}
    shown = [item for item in found if isinstance(item, Images)]
    return leaked + [images for images in shown if hidden & {pixel.numpy().tobytes() for pixel in images.pixels}]


@every_defense
def test_has_no_path_to_the_truth(name: str, task: Task, trojan: Trojan, defended: Get) -> None:
    assert leaks(defended(name).view, trojan, task) == []


@every_view
def test_a_view_has_no_path_to_the_truth_but_what_it_declares(
    view: type[DataFreeView], task: Task, trojan: Trojan
) -> None:
    built = builder_of(view)(trojan, task)
    assert isinstance(built, view)
    assert leaks(built, trojan, task) == []
    assert view.holds == frozenset() or images_in(built)
    assert leaks(materials_for(view, task), trojan, task, view.holds) == []


@every_view
def test_a_view_knows_the_model_its_shape_and_its_training(
    view: type[DataFreeView], task: Task, trojan: Trojan
) -> None:
    handed_in = replace(trojan, model=trojan.model.clone().train())
    built = builder_of(view)(handed_in, task)
    assert isinstance(built, view)
    assert not any(module.training for module in built.model.modules())
    assert handed_in.model.training
    assert (built.shape, built.classes) == (task.train.shape, task.classes)
    assert built.trainer is not None
    assert (built.trainer.architecture, built.trainer.recipe) == (task.architecture, task.recipe)


def test_a_view_made_by_hand_is_a_copy_in_evaluation_mode(task: Task, trojan: Trojan) -> None:
    model = trojan.model.clone().train()
    view = ModelView(model, task.holdout)
    assert not view.model.training
    assert model.training
    assert view.shape == task.holdout.shape


def test_a_suspect_training_set_is_as_delivered_and_what_is_kept_can_be_trained_on(task: Task, trojan: Trojan) -> None:
    view = builder_of(SuspectDataView)(trojan, task)
    assert isinstance(view, SuspectDataView)
    assert trojan.delivered is not None
    assert torch.equal(view.suspect.labels, trojan.delivered.labels)
    assert torch.equal(view.suspect.pixels[trojan.delivered.changed], trojan.delivered.pixels)
    kept = view.suspect.take(~trojan.delivered.stamped)
    again = view.trainer.train(kept, 1)
    assert not again.training
    assert float((predict(again, task.test).argmax(1) == task.test.labels).float().mean()) > 0.5
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(view.trainer.train(kept.take(slice(64)), 1).parameters() for _ in "ab"), strict=True)
    )


def test_without_a_training_set_there_is_a_reason_and_no_view(task: Task, trojan: Trojan) -> None:
    assert "no training set" in str(builder_of(SuspectDataView)(replace(trojan, delivered=None), task))


def test_a_view_from_elsewhere_is_one_type_and_one_line(
    task: Task, trojan: Trojan, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True, eq=False)
    class Stream(DataFreeView):
        inputs: Tensor

    with pytest.raises(RequestError, match="how a Stream is built"):
        builder_of(Stream)
    monkeypatch.setitem(
        VIEWS, Stream, lambda trojan, task: Stream(trojan.model, task.test.floats()[:2], shape=task.train.shape)
    )
    assert isinstance(builder_of(Stream)(trojan, task), Stream)


def test_the_walk_would_find_a_leak(task: Task, trojan: Trojan) -> None:
    view = view_of(defense_at_smoke_scale("strip"), trojan, task)
    object.__setattr__(view, "leak", lambda: trojan)
    view.model.register_forward_hook(lambda *_: print(task.test))
    assert {Trojan, Task, DeliveredSet} <= {type(item) for item in leaks(view, trojan, task)}
    shows = ModelView(trojan.model, Images(task.train.pixels[:1].clone(), task.train.labels[:1].clone(), 10))
    assert leaks(shows, trojan, task) == [shows.clean]


@pytest.mark.parametrize("name", data_free)
def test_a_data_free_defense_runs_with_no_images_in_the_process(name: str) -> None:
    # A shape that no other test has: what others loaded may still be there.
    shape = (1, 11, 13)
    model = Classifier.clone(train(noise_task(shape), 0))
    gc.collect()
    assert not [item for item in gc.get_objects() if type(item) is Images and item.shape == shape]
    defense = defense_at_smoke_scale(name)
    view = DataFreeView(model, shape=shape)
    assert defense.skip(view) is None
    assert isinstance(defense.defend(view, 0), outcome_of(type(defense)))


@every_defense
def test_same_seed_same_outcome_whatever_the_global_random_state(
    name: str, task: Task, trojan: Trojan, defended: Get
) -> None:
    first, defense = defended(name).answers, defense_at_smoke_scale(name)
    view = view_of(defense, trojan, task)
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    second = answers(defense.defend(view, 0), task.test.floats()[:12])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(answer.device.type == "cpu" for answer in second.values())
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_defense_that_prepares_something_has_a_variant_that_does() -> None:
    able = {cls.name for cls in DEFENSES.values() if cls.prepare is not Defense.prepare}
    assert able == {name.split("[")[0] for name in preparing}


@over(preparing)
def test_the_same_is_prepared_whatever_the_global_random_state_and_materials_are_left_alone(name: str) -> None:
    defense, (_, task) = defense_at_smoke_scale(name), noise_world((1, 12, 12))
    first = prepared_by(defense, task)
    materials = materials_for(defense.view, task)
    pixels = materials.clean.pixels.clone()
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    second = defense.prepare(materials, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.keys() == second.keys() != set()
    assert all(torch.equal(first[part], second[part]) for part in first)
    assert torch.equal(materials.clean.pixels, pixels)


@over(list(DEFENSES))
def test_runs_with_two_threads(name: str) -> None:
    defense, (trojan, task) = defense_at_smoke_scale(name), noise_world((1, 12, 12))
    view = view_of(defense, trojan, task)
    torch.set_num_threads(2)
    try:
        outcome = defense.defend(view, 0)
        assert all(answer.isfinite().all() for answer in answers(outcome, task.test.floats()).values())
    finally:
        torch.set_num_threads(1)


@every_defense
@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 12, 12), (3, 12, 17)], ids=["grey", "colour", "not square"])
def test_runs_on_any_image_shape(name: str, shape: tuple[int, int, int]) -> None:
    defense, (trojan, task) = defense_at_smoke_scale(name), noise_world(shape)
    view = view_of(defense, trojan, task)
    assert defense.skip(view) is None
    assert all(answer.isfinite().all() for answer in answers(defense.defend(view, 0), task.test.floats()).values())


@every_defense
def test_skips_with_a_sentence_what_it_cannot_do(name: str, task: Task, trojan: Trojan) -> None:
    """A view with next to no clean images, and a model whose parts are unknown, must not end in an exception."""
    defense = defense_at_smoke_scale(name)
    view = view_of(defense, trojan, task)
    emptied: dict[str, Any] = {name: images.take(slice(0)) for name, images in images_in(view).items()}
    if emptied:
        reason = defense.skip(replace(view, **emptied))
        assert reason
        assert "image" in reason
    else:
        assert defense.skip(view) is None


@every_defense
def test_hands_back_what_it_says_and_says_the_same_of_one_image_as_of_many(
    name: str, task: Task, defended: Get
) -> None:
    done, pixels = defended(name), task.test.floats()[:12]
    assert isinstance(done.outcome, outcome_of(type(done.defense)))
    for each in kind_of(type(done.outcome)).per_image:
        alone = torch.cat([answers(done.outcome, pixel[None])[each] for pixel in pixels])
        torch.testing.assert_close(alone, done.answers[each], atol=1e-4, rtol=1e-4)


@handing_back(CleanModel)
def test_a_clean_model_answers_in_logits_and_is_in_evaluation_mode(name: str, task: Task, defended: Get) -> None:
    outcome = defended(name).outcome
    assert isinstance(outcome, CleanModel)
    assert not outcome.model.training
    logits = predict(outcome.model, task.test)
    assert logits.shape == (len(task.test), task.classes)
    assert logits.isfinite().all()


@handing_back(InputScreen)
def test_a_screens_threshold_does_not_move_with_what_is_scored(name: str, task: Task, defended: Get) -> None:
    outcome = defended(name).outcome
    assert isinstance(outcome, InputScreen)
    before, pixels = outcome.threshold, task.test.floats()[:40]
    scores = outcome.score(pixels)
    outcome.score(torch.zeros_like(pixels))
    assert outcome.threshold == before
    assert torch.equal(outcome.score(pixels), scores)
    assert scores.shape == (40,)
    flipped = outcome.score(pixels.flip(0)).flip(0)
    torch.testing.assert_close(flipped, scores, atol=1e-4, rtol=1e-4)


@handing_back(ModelVerdict)
def test_a_verdict_is_finite_and_points_at_the_class_with_the_highest_score(
    name: str, task: Task, defended: Get
) -> None:
    done = defended(name)
    outcome = done.outcome
    assert isinstance(outcome, ModelVerdict)
    if outcome.scores is not None:
        assert outcome.scores.shape == (task.classes,)
        assert outcome.suspect in (None, int(outcome.scores.argmax()))
    assert all(answer.isfinite().all() for answer in done.answers.values())
