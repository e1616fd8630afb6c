"""Promises of every listed defense, in each of its declared variants, and of what it hands back."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gifthorse.bench.cell import resolve
from gifthorse.bench.views import VIEWS, builder_of, materials_for, materials_of, view_of
from gifthorse.contracts.defenses import SOUND, defense_promises, hooks_of, images_in
from gifthorse.contracts.promise import Promise
from gifthorse.contracts.truth import leaks
from gifthorse.contracts.worlds import World, noise_world
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.defense import Defense, outcome_of
from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.images import Images
from gifthorse.core.outcomes import Outcome
from gifthorse.core.task import Task
from gifthorse.core.trojan import DeliveredSet, Trojan
from gifthorse.core.views import DataFreeView, KnownClassView, ModelView, SuspectDataView
from gifthorse.defenses import DEFENSES
from gifthorse.inversion import reference
from gifthorse.metrics.judge import answers
from gifthorse.training.scratch import FromScratch, train
from worlds import affordable, digits_world, noise_task, requests, with_delivered_set

LISTED = requests(DEFENSES)
every_view = pytest.mark.parametrize("view", list(VIEWS), ids=lambda view: view.__name__)


def over(names: list[str]) -> pytest.MarkDecorator:
    """Run over these requests, each in one process: so its outcome is computed once."""
    return pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names])


every_defense = over(LISTED)


def at_smoke_scale(name: str) -> Defense[Any]:
    found = resolve(dataset="digits", defense=name, profile="smoke").defense
    assert found is not None
    return found


def defense_at_smoke_scale(name: str) -> Defense[Any]:
    return affordable(at_smoke_scale(name))


def with_training_set() -> World:
    """Digits, and a trojan that comes with a training set to look at."""
    world = digits_world()
    return replace(world, trojan=with_delivered_set(world.trojan, world.task))


every_promise = pytest.mark.parametrize(
    "promise",
    [
        pytest.param(promise, marks=pytest.mark.xdist_group(name), id=f"{promise.name}-{name}")
        for name in LISTED
        for promise in defense_promises(at_smoke_scale(name), with_training_set)
    ],
)
data_free = [name for name in LISTED if DEFENSES.build(name).sees() is DataFreeView]
preparing = [name for name in LISTED if DEFENSES.build(name).preparation() is not None]


@pytest.fixture(scope="module", autouse=True)
def _quick_references() -> Iterator[None]:
    """What is prepared need not be good here, and trained in full it takes longer than all else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "STEPS", 40)
        yield


@pytest.fixture(scope="module")
def trojan() -> Trojan:
    """The shared trojan, with a training set to look at."""
    return with_training_set().trojan


@every_promise
def test_keeps_its_promises(promise: Promise) -> None:
    affordable(promise.method)
    promise()


def seen_by(defense: Defense[Any], trojan: Trojan, task: Task) -> DataFreeView:
    view = view_of(defense, trojan, task)
    assert isinstance(view, DataFreeView), view
    if defense.preparation() is not None:
        return replace(view, prepared=prepared_by(defense, task))
    return view


@cache
def prepared_by(defense: Defense[Any], task: Task) -> dict[str, Tensor]:
    return defense.prepare(materials_of(defense, task), 0)


def test_every_kind_of_outcome_and_every_view_that_a_defense_has_is_asked_about() -> None:
    """A defense must not escape its promises by handing back, or seeing, something that no promise is about."""
    own = [cls for cls in DEFENSES.values() if cls.__module__.startswith("gifthorse.")]
    # What is made of several defenses answers as these do.
    outcomes = {outcome for cls in own if (outcome := outcome_of(cls)) not in (None, Outcome)}
    unasked = {outcome.__name__ for outcome in outcomes if not issubclass(outcome, tuple(SOUND))}
    assert unasked == set(), "ask something of it in gifthorse.contracts.defenses.SOUND"
    assert {cls.view for cls in DEFENSES.values()} <= set(VIEWS)


@every_view
def test_a_view_holds_a_copy_of_the_delivered_model(view: type[DataFreeView], task: Task, trojan: Trojan) -> None:
    built = builder_of(view)(trojan, task)
    assert isinstance(built, view)
    shared = {tensor.data_ptr() for tensor in trojan.model.state_dict().values()}
    assert not shared & {tensor.data_ptr() for tensor in built.model.state_dict().values()}


@every_defense
def test_removes_its_hooks_after_an_error(
    name: str, task: Task, trojan: Trojan, monkeypatch: pytest.MonkeyPatch
) -> None:
    defense = defense_at_smoke_scale(name)
    view = seen_by(defense, trojan, task)
    calls = iter(range(1000))

    def forward(self: nn.Module, maps: Tensor) -> Tensor:
        if next(calls) >= 1:
            raise RuntimeError("out of memory")
        return maps.flatten(1)

    monkeypatch.setattr(nn.Flatten, "forward", forward)
    try:
        answers(defense.defend(view, 0), task.test.floats()[:300])
    except (RuntimeError, NotApplicableError) as error:  # a pipeline asks whether the next one can be applied
        assert "out of memory" in str(error)
    else:
        assert next(calls) <= 1, "it ran the model, and went on after an error"
    assert hooks_of(view.model) == 0


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


def test_who_knows_the_attacked_class_knows_nothing_else(task: Task, trojan: Trojan) -> None:
    view = builder_of(KnownClassView)(trojan, task)
    assert isinstance(view, KnownClassView)
    assert trojan.backdoor is not None
    assert view.known_classes == tuple(trojan.backdoor.goal.classes())
    assert "no class is attacked" in str(builder_of(KnownClassView)(replace(trojan, backdoor=None), task))


@pytest.mark.parametrize(("share", "count"), [(None, 200), (0.04, 48), (0.01, 12), (0.0001, 1), (30, 30)])
def test_a_defender_has_as_many_clean_images_as_its_threat_model_says(
    share: float | None, count: int, task: Task, trojan: Trojan
) -> None:
    """A share is of the training images; whoever has fewer has some of the same."""
    assert len(task.train) == 1197
    defense = at_smoke_scale("strip").changed(clean_share=share)
    view, materials = view_of(defense, trojan, task), materials_of(defense, task)
    assert isinstance(view, ModelView)
    assert torch.equal(view.clean.pixels, task.holdout.pixels[:count])
    assert torch.equal(materials.clean.pixels, task.holdout.pixels[:count])


def test_more_clean_images_than_there_are_is_a_wrong_request(task: Task, trojan: Trojan) -> None:
    with pytest.raises(RequestError, match="strip is to have 201 clean images; the data set holds out 200"):
        view_of(at_smoke_scale("strip[clean_share=201]"), trojan, task)
    for share in ("0", "1.5", "-1", "0.0"):
        with pytest.raises(RequestError, match="clean_share"):
            at_smoke_scale(f"strip[clean_share={share}]")


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
    view = seen_by(defense_at_smoke_scale("strip"), trojan, task)
    object.__setattr__(view, "leak", lambda: trojan)
    view.model.register_forward_hook(lambda *_: print(task.test))
    assert {Trojan, Task, DeliveredSet} <= {type(item) for item in leaks(view, trojan, task)}
    shows = ModelView(trojan.model, Images(task.train.pixels[:1].clone(), task.train.labels[:1].clone(), 10))
    assert leaks(shows, trojan, task) == [shows.clean]


@pytest.mark.parametrize("name", data_free)
def test_a_data_free_defense_runs_with_no_images_in_the_process(name: str) -> None:
    # A shape that no other test has: what others loaded may still be there.
    shape = (3, 11, 13)
    task = noise_task(shape)
    model, trainer = Classifier.clone(train(task, 0)), FromScratch(task.architecture, task.recipe)
    del task
    gc.collect()
    assert not [item for item in gc.get_objects() if type(item) is Images and item.shape == shape]
    defense = defense_at_smoke_scale(name)
    view = DataFreeView(model, shape=shape, trainer=trainer)
    assert defense.skip(view) is None
    assert isinstance(defense.defend(view, 0), outcome_of(type(defense)) or ())


def test_a_defense_that_prepares_something_has_a_variant_that_does() -> None:
    able = {cls.name for cls in DEFENSES.values() if cls.prepare is not Defense.prepare}
    assert able == {name.split("[")[0] for name in preparing}


@over(preparing)
def test_what_it_prepares_is_something(name: str) -> None:
    assert prepared_by(defense_at_smoke_scale(name), noise_world().task)


@over(list(DEFENSES))
def test_runs_with_two_threads(name: str) -> None:
    defense, world = defense_at_smoke_scale(name), noise_world()
    view = seen_by(defense, world.trojan, world.task)
    torch.set_num_threads(2)
    try:
        outcome = defense.defend(view, 0)
        assert all(answer.isfinite().all() for answer in answers(outcome, world.task.test.floats()).values())
    finally:
        torch.set_num_threads(1)
