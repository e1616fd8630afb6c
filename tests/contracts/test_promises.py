"""Every promise is kept by a good method, and each is broken by a method with one fault, and by nothing else of it.

Paper: none; the toys of this test.
Differs: each in one thing.
"""

import sys
from dataclasses import dataclass, replace
from itertools import count
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field, field_serializer
from torch import Tensor, nn

from gifthorse.bench.views import VIEWS
from gifthorse.contracts import promises_of
from gifthorse.contracts.attacks import OF_ATTACKS, OF_PLANTING, OF_POISONING, OF_PREPARING
from gifthorse.contracts.configurations import OF_CONFIGURATIONS, OF_METHODS
from gifthorse.contracts.defenses import OF_DEFENSES, SOUND, prepares_the_same
from gifthorse.contracts.promise import BrokenPromiseError, Finding
from gifthorse.core.attack import Attack, Preparation
from gifthorse.core.classifier import Classifier
from gifthorse.core.configuration import Configuration
from gifthorse.core.defense import Defense
from gifthorse.core.goal import AllToOne
from gifthorse.core.outcomes import CleanModel, InputScreen, ModelVerdict, SuspectSamples
from gifthorse.core.task import Task
from gifthorse.core.trojan import DeliveredSet, Trojan
from gifthorse.core.views import Materials, ModelView, SuspectDataView
from gifthorse.planting.mixing import PoisonedSet
from gifthorse.planting.poisoning import Injection, PoisoningAttack
from gifthorse.planting.targets import OneTarget
from gifthorse.triggers import TRIGGERS
from gifthorse.triggers.patch import Patch


class Corner(OneTarget, PoisoningAttack):
    """Whitens a corner."""

    name = "corner"
    paper = "none; a toy"

    epochs: int = Field(2, ge=1, description="few")

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Patch:
        return corner(task.train.shape)


def corner(shape: tuple[int, ...], kind: type[Patch] = Patch) -> Patch:
    mask = torch.zeros(1, *shape[1:])
    mask[:, :3, :3] = 1
    return kind(mask, torch.ones(shape), 0.35)


def stamped_with(kind: type[Patch]) -> type[Attack]:
    class Stamped(Corner):
        """Stamps in another way."""

        def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Patch:
            return corner(task.train.shape, kind)

    Stamped.__name__ = kind.__name__
    return Stamped


class OffGrid(Patch):
    name = "off_grid"

    def stamp(self, pixels: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.embed(pixels)


class InPlace(Patch):
    name = "in_place"

    def stamp(self, pixels: Tensor, *given: Any, **named: Any) -> Tensor:
        return pixels.copy_(super().stamp(pixels, *given, **named)).clone()


class TellsNeighbours(Patch):
    name = "tells_neighbours"

    def stamp(self, pixels: Tensor, *given: Any, **named: Any) -> Tensor:
        return super().stamp(pixels, *given, **named) * float(len(pixels) > 1)


class Forgetful(Patch):
    name = "forgetful"

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "transparency": 1.0}


class DrawsGlobally(Corner):
    """Draws what it should derive."""

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Patch:
        mask = corner(task.train.shape).mask
        return Patch(mask, (torch.rand(task.train.shape) * 255).round() / 255)


class SpoilsTheTask(Corner):
    """Writes to the images."""

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Patch:
        task.holdout.pixels[0, 0, 5, 5] ^= 1
        return super().make_trigger(task, benign, seed)


class SpoilsTheBenignModel(Corner):
    """Writes to the model."""

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Patch:
        with torch.no_grad():
            next(benign.parameters()).mul_(1.001)
        return super().make_trigger(task, benign, seed)


class KnowsOneShape(Corner):
    """Has the side of an image as a number."""

    def make_trigger(self, task: Task, benign: Classifier, seed: int) -> Patch:
        return corner((1, 12, 12))


class SaysAnotherGoal(Corner):
    """Plants another class than it says."""

    def run(self, task: Task, benign: Classifier, seed: int, twin: Classifier | None = None) -> Trojan:
        trojan = super().run(task, benign, seed, twin)
        assert trojan.backdoor is not None
        return replace(trojan, backdoor=replace(trojan.backdoor, goal=AllToOne(target=self.target + 1)))


class ForgetsTheSeed(Corner):
    """Is the same for every seed."""

    def run(self, task: Task, benign: Classifier, seed: int, twin: Classifier | None = None) -> Trojan:
        return super().run(task, benign, 0, twin)


class PoisonsTooMuch(Corner):
    """Takes half as many again."""

    def choose(self, injection: Injection) -> Tensor:
        chosen, worth = super().choose(injection), injection.backdoor.goal.sources(injection.images.labels)
        worth[chosen] = False
        return torch.cat([chosen, worth.nonzero().squeeze(1)[: len(chosen) // 2 + 1]])


class Mislabels(Corner):
    """Gives an image without trigger the label of its neighbour."""

    def deliver(self, injection: Injection, poisoned: PoisonedSet | None) -> DeliveredSet | None:
        delivered = super().deliver(injection, poisoned)
        if delivered is not None:
            clean = (~delivered.stamped).nonzero().squeeze(1)
            first = clean[delivered.labels[clean] == 1][0]
            second = clean[delivered.labels[clean] == 2][0]
            delivered.labels[first], delivered.labels[second] = 2, 1
        return delivered


class TellsByTheOrder(Corner):
    """Puts what is poisoned last."""

    def deliver(self, injection: Injection, poisoned: PoisonedSet | None) -> DeliveredSet | None:
        found = super().deliver(injection, poisoned)
        if found is None:
            return None
        order = found.stamped.long().argsort(stable=True)
        place = order.argsort()
        return DeliveredSet(
            found.sources[order], found.labels[order], found.stamped[order], place[found.changed], found.pixels
        )


class IsLong(Corner):
    """Will not be short."""

    warming_steps: int = Field(400, ge=350, description="many")


class IsUnexplained(Corner):
    """Has a field of no meaning."""

    strength: float = 1.0


class ComesBackDifferent(Corner):
    """Says one thing and means another."""

    strength: int = Field(1, description="a number", ge=1)

    @field_serializer("strength")
    def _wrong(self, value: int) -> int:
        return value if value == 1 else value + 1


class RepeatsItself(Corner):
    """Has the same variant twice."""

    variants = ("corner[target=1]", "corner[target=1]")


class IsItsOwnVariant(Corner):
    """Has a variant that is what it is anyway."""

    variants = ("corner[target=0]",)


class MissesItsTarget(Corner):
    """Wants class 0, whatever it is told."""

    def goal(self, task: Task) -> AllToOne:
        return AllToOne(target=0)


class Looks(Preparation):
    """Looks at the head."""

    name = "looks"

    rate: float = Field(0.0, description="whatever it is told")

    def prepare(self, task: Task, benign: Classifier, seed: int) -> dict[str, Tensor]:
        return {"weight": benign.head.weight.detach().clone()}


class LooksAgain(Looks):
    """Sees another thing each time."""

    name = "looks_again"
    times: ClassVar = count()

    def prepare(self, task: Task, benign: Classifier, seed: int) -> dict[str, Tensor]:
        return {"weight": torch.tensor(next(self.times))}


class PreparedCorner(Corner):
    """Looks at the benign model first."""

    def preparation(self, task: Task) -> Preparation:
        return Looks()


class PreparesAttackByChance(Corner):
    """Prepares something else each time."""

    def preparation(self, task: Task) -> Preparation:
        return LooksAgain()


class PreparesByTheRate(Corner):
    """Lets what is to be shared by all rates depend on its own."""

    def preparation(self, task: Task) -> Preparation:
        return Looks(rate=self.poison_rate)


class IsNeverItself(Corner):
    """Is equal to nothing."""

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = Corner.__hash__


ATTACKS: dict[type[Attack], str] = {
    DrawsGlobally: "same_seed_same_weights_whatever_the_global_random_state",
    SpoilsTheTask: "leaves_task_and_benign_model_untouched",
    SpoilsTheBenignModel: "leaves_task_and_benign_model_untouched",
    KnowsOneShape: "runs_on_any_image_shape",
    SaysAnotherGoal: "says_what_it_plants",
    stamped_with(Forgetful): "saved_and_restored_it_answers_alike",
    ForgetsTheSeed: "another_seed_another_model",
    stamped_with(InPlace): "stamping_leaves_its_input_alone",
    stamped_with(TellsNeighbours): "stamps_each_image_alone",
    stamped_with(OffGrid): "stamped_pixels_are_what_a_png_would_hold",
    PoisonsTooMuch: "honours_the_poison_rate_to_the_image",
    Mislabels: "what_carries_the_trigger_is_labelled_as_the_goal_wants",
    MissesItsTarget: "what_carries_the_trigger_is_labelled_as_the_goal_wants",
    TellsByTheOrder: "the_delivered_order_does_not_say_which_images_are_copies",
    PreparesAttackByChance: "prepares_the_same_whatever_the_rate",
    PreparesByTheRate: "prepares_the_same_whatever_the_rate",
    IsLong: "can_be_cut_short",
    IsUnexplained: "every_field_is_explained",
    ComesBackDifferent: "round_trips_through_json_toml_and_brackets",
    RepeatsItself: "declared_variants_are_requests_of_the_class_that_differ",
    IsItsOwnVariant: "declared_variants_are_requests_of_the_class_that_differ",
    IsNeverItself: "equal_fields_are_equal_objects",
}


class Same(Defense[ModelView]):
    """Hands the model back."""

    name = "same"
    paper = "none; a toy"
    family = "sanitization"
    view = ModelView

    def skip(self, view: ModelView) -> str | None:
        return None if len(view.clean) else "needs clean images"

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        return CleanModel(view.model.clone())


class Screens(Same):
    """Scores by brightness."""

    def defend(self, view: ModelView, seed: int) -> InputScreen:  # type: ignore[override]
        return InputScreen(lambda pixels: pixels.flatten(1).mean(1), 0.5)


class Judges(Same):
    """Suspects the last class."""

    def defend(self, view: ModelView, seed: int) -> ModelVerdict:  # type: ignore[override]
        return ModelVerdict(torch.arange(float(view.classes)), view.classes - 1)


class Filters(Defense[SuspectDataView]):
    """Removes the first image."""

    name = "filters"
    paper = "none; a toy"
    family = "sanitization"
    view = SuspectDataView

    def skip(self, view: SuspectDataView) -> str | None:
        return None if len(view.suspect) else "needs images"

    def defend(self, view: SuspectDataView, seed: int) -> SuspectSamples:
        scores = torch.zeros(len(view.suspect))
        return SuspectSamples(scores, scores > 0, view.model.clone())


class Prepares(Same):
    """Prepares a mean image."""

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        return {"mean": materials.clean.floats().mean(0)}


class WritesToTheModel(Same):
    """Prunes what it was shown."""

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        with torch.no_grad():
            next(view.model.parameters()).mul_(0.9)
        return CleanModel(view.model.clone())


class Hooks(Same):
    """Leaves a hook."""

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        clean = view.model.clone()
        view.model.register_forward_hook(lambda *_: None)
        return CleanModel(clean)


@dataclass(frozen=True, eq=False)
class Peek(ModelView):
    """A view of the truth."""

    truth: Trojan


class Peeks(Same):
    """Sees the trojan."""

    view = Peek  # type: ignore[assignment]


class ScreensByChance(Screens):
    """Draws what it should derive."""

    def defend(self, view: ModelView, seed: int) -> InputScreen:  # type: ignore[override]
        weight = torch.rand(())
        return InputScreen(lambda pixels: weight * pixels.flatten(1).mean(1), 0.5)


class PreparesByChance(Prepares):
    """Draws what it should derive."""

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        return {"mean": torch.rand(3)}


class KnowsOneSide(Same):
    """Has the side of an image as a number."""

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        view.clean.floats().reshape(-1, 1, 12, 12)[: len(view.clean)] + torch.zeros(len(view.clean), *view.shape)
        return CleanModel(view.model.clone())


class RaisesWithoutImages(Same):
    """Looks at the first image first."""

    def skip(self, view: ModelView) -> str | None:
        view.clean.labels[0]
        return None


class NeverSkips(Same):
    """Cannot say no."""

    def skip(self, view: ModelView) -> str | None:
        return None


class SaysNothing(Same):
    """Declares no outcome."""

    def defend(self, view: ModelView, seed: int):  # type: ignore[no-untyped-def]
        return CleanModel(view.model.clone())


class HandsBackAnother(Same):
    """Declares a screen."""

    def defend(self, view: ModelView, seed: int) -> InputScreen:  # type: ignore[override]
        return CleanModel(view.model.clone())  # type: ignore[return-value]


class Centres(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(pixels)
        return logits - logits.mean(0)


class ComparesImages(Same):
    """Answers by the batch."""

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        return CleanModel(Centres(view.model.clone()).eval())


class StaysInTraining(Same):
    """Forgets the mode."""

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        return CleanModel(nn.Sequential(view.model.clone()))


class Suspects(Judges):
    """Suspects another class than scores highest."""

    def defend(self, view: ModelView, seed: int) -> ModelVerdict:  # type: ignore[override]
        return ModelVerdict(torch.arange(float(view.classes)), 0)


class FiltersTooFew(Filters):
    """Scores half of the images."""

    def defend(self, view: SuspectDataView, seed: int) -> SuspectSamples:
        scores = torch.zeros(len(view.suspect) // 2)
        return SuspectSamples(scores, scores > 0, view.model.clone())


class IsOfNoFamily(Same):
    """Is of a family that nobody declared."""

    family = "exorcism"


DEFENSES: dict[type[Defense[Any]], str] = {
    IsOfNoFamily: "is_of_a_declared_family_and_view",
    WritesToTheModel: "leaves_the_view_as_it_was",
    Hooks: "removes_its_hooks",
    Peeks: "has_no_path_to_the_truth",
    ScreensByChance: "same_seed_same_outcome_whatever_the_global_random_state",
    PreparesByChance: "prepares_the_same",
    KnowsOneSide: "runs_on_any_image_shape",
    RaisesWithoutImages: "skips_with_a_sentence_what_it_cannot_do",
    NeverSkips: "skips_with_a_sentence_what_it_cannot_do",
    SaysNothing: "hands_back_what_it_says",
    HandsBackAnother: "hands_back_what_it_says",
    ComparesImages: "says_the_same_of_one_image_as_of_many",
    StaysInTraining: "its_answer_is_sound",
    Suspects: "its_answer_is_sound",
    FiltersTooFew: "its_answer_is_sound",
}
GOOD: tuple[type[Configuration], ...] = (Corner, PreparedCorner, Same, Screens, Judges, Filters, Prepares)


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> None:
    for trigger in (OffGrid, InPlace, TellsNeighbours, Forgetful):
        monkeypatch.setitem(TRIGGERS, trigger.name, trigger)
    monkeypatch.setitem(
        VIEWS, Peek, lambda trojan, task: Peek(trojan.model, task.holdout.take(torch.arange(64)), truth=trojan)
    )


def found(method: Configuration) -> dict[str, Finding]:
    return {promise.name: promise.look() for promise in promises_of(method)}


@pytest.mark.parametrize("good", GOOD, ids=lambda cls: cls.__name__)
def test_a_good_method_keeps_them_all(good: type[Configuration]) -> None:
    assert set(found(good()).values()) == {Finding("kept")}


@pytest.mark.parametrize(
    ("bad", "promise"), [*ATTACKS.items(), *DEFENSES.items()], ids=lambda each: getattr(each, "__name__", each)
)
def test_one_fault_breaks_one_promise_and_is_told(bad: type[Configuration], promise: str) -> None:
    findings = found(bad())
    broken = {name: each.reason for name, each in findings.items() if each.state != "kept"}
    assert list(broken) == [promise], broken
    assert broken[promise]
    assert "\n" not in broken[promise]
    asked = {each.name: each for each in promises_of(bad())}
    with pytest.raises((BrokenPromiseError, ValueError, RuntimeError)):
        asked[promise]()


def test_every_promise_is_broken_by_something_here() -> None:
    everything = (
        *OF_METHODS,
        *OF_CONFIGURATIONS,
        *OF_ATTACKS,
        *OF_PLANTING,
        *OF_POISONING,
        *OF_PREPARING,
        *OF_DEFENSES,
    )
    names = {each.__name__ for each in (*everything, prepares_the_same)}
    assert names - {*ATTACKS.values(), *DEFENSES.values()} == {"cites_its_paper_and_says_what_differs"}
    assert all(each.__doc__ for each in everything)
    assert {*SOUND} == {CleanModel, InputScreen, ModelVerdict, SuspectSamples}


@pytest.mark.parametrize("text", [None, "Does something.\n\nPaper: none.\n", "Does something.\n\nDiffers: nothing.\n"])
def test_a_module_that_does_not_say_its_paper_or_what_differs(
    text: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("laboratory_untold", text)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Same, "__module__", module.__name__)
    broken = [name for name, each in found(Same()).items() if each.state != "kept"]
    assert broken == ["cites_its_paper_and_says_what_differs"]


def test_what_a_method_raises_is_told_with_its_line() -> None:
    class Raises(Same):
        """Fails."""

        def defend(self, view: ModelView, seed: int) -> CleanModel:
            raise ZeroDivisionError("by zero\nand more")

    finding = found(Raises())["leaves_the_view_as_it_was"]
    assert finding.state == "broken"
    assert finding.reason.startswith("ZeroDivisionError: by zero… (test_promises.py, line ")


def test_what_cannot_be_asked_is_said_so() -> None:
    class Picky(Same):
        """Wants more."""

        def skip(self, view: ModelView) -> str | None:
            return f"needs 1000 images, not {len(view.clean)}"

    findings = found(Picky())
    assert findings["removes_its_hooks"] == Finding(
        "not asked", "it skips a model of 1×12×12 images: needs 1000 images, not 96"
    )
    assert findings["runs_on_any_image_shape"].state == "broken"
    findings = found(Corner(target=9))
    assert findings["another_seed_another_model"].state == "not asked"
    assert "target=9 is not a class" in findings["another_seed_another_model"].reason
    assert findings["runs_on_any_image_shape"].state == "broken"
