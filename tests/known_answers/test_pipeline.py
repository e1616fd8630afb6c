"""One defense after another, and what an attacker may ask of one."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from gifthorse import (
    CleanModel,
    Defense,
    InputScreen,
    ModelVerdict,
    ModelView,
    Outcome,
    SuspectDataView,
    SuspectSamples,
)
from gifthorse.bench.views import builder_of, materials_of, view_of
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.errors import NotApplicableError, RequestError
from gifthorse.core.seeds import derive
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.core.views import DataFreeView, KnownClassView, SuspectAndCleanView, joined
from gifthorse.defenses import DEFENSES
from gifthorse.defenses.combination.ensemble import Ensemble
from gifthorse.defenses.combination.pipeline import Pipeline
from gifthorse.defenses.filtering.strip import Strip
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse
from gifthorse.defenses.reformation.randomized_smoothing import RandomizedSmoothing
from gifthorse.defenses.reformation.transformation import Flip, ShrinkPad
from gifthorse.defenses.sanitization.fine_pruning import FinePruning
from gifthorse.training.scratch import train
from worlds import live_pixel_view, noise_task, with_delivered_set


class Blank(Defense[ModelView]):
    """Puts no weight on the pixels of the trigger that a detector recovered."""

    name = "blank"
    family = "sanitization"
    view = ModelView

    def skip(self, view: ModelView) -> str | None:
        return None if view.verdict is not None else "needs a verdict to act on"

    def defend(self, view: ModelView, seed: int) -> CleanModel:
        model, verdict = view.model.clone(), view.verdict
        assert verdict is not None
        assert verdict.triggers is not None
        if verdict.suspect is not None:
            shown = (verdict.triggers.mask[verdict.suspect] > 0.1).flatten()
            model.head.weight.data[:, shown] = 0
        return CleanModel(model)


def defend(parts: tuple[Defense[Any], ...], view: ModelView, seed: int = 0) -> Outcome:
    return Pipeline(defenses=parts).defend(view, seed)


def test_a_trigger_that_one_part_recovers_is_what_the_next_one_unlearns() -> None:
    view = live_pixel_view(target=2, row=7, column=5)
    plain = NeuralCleanse(steps=60, batches=1, batch_size=32)
    stamped = view.clean.floats()
    stamped[:, :, 7, 5] = 1
    assert (view.model(stamped).argmax(1) == 2).all()
    outcome = defend((plain, Blank()), view)
    assert isinstance(outcome, CleanModel)
    assert torch.equal(outcome.model(stamped).argmax(1), view.clean.labels)
    assert view.verdict is None
    with pytest.raises(NotApplicableError, match=r"strip cannot follow randomized_smoothing: .*parts are unknown"):
        defend((RandomizedSmoothing(samples=2), Strip()), view)
    with pytest.raises(NotApplicableError, match="blank: needs a verdict to act on"):
        defend((Flip(), Blank()), view)


def test_each_part_of_a_pipeline_finds_what_it_prepared() -> None:
    task = noise_task((1, 12, 12))
    calibrated = NeuralCleanse(steps=3, batches=1, batch_size=32, reference=2)
    pipeline = Pipeline(defenses=(FinePruning(epochs=0), calibrated), clean_share=40)
    alone = calibrated.preparation()
    assert pipeline.preparation() == {"0": None, "1": alone, "clean_share": 40}
    assert Pipeline(defenses=(FinePruning(epochs=0), Strip())).preparation() is None
    materials = materials_of(pipeline, task)
    assert len(materials.clean) == 40
    prepared = pipeline.prepare(materials, 0)
    assert set(prepared) == {"1/reference_norms"}
    torch.testing.assert_close(prepared["1/reference_norms"], calibrated.prepare(materials, 0)["reference_norms"])
    model = train(task, 0)
    view = view_of(pipeline, Trojan(model, model, None), task)
    assert isinstance(view, ModelView)
    outcome = pipeline.defend(replace(view, prepared=prepared), 0)
    assert isinstance(outcome, ModelVerdict)
    with pytest.raises(KeyError, match="reference_norms"):
        pipeline.defend(view, 0)


def test_a_filter_behind_a_sanitizer_is_fitted_on_the_sanitized_model_and_judged_with_it(
    task: Task, trojan: Trojan
) -> None:
    pruning, strip = FinePruning(epochs=0, prune_ratio=0.9, max_accuracy_drop=1.0), Strip(overlays=16)
    view = ModelView(trojan.model, task.holdout)
    screen = defend((pruning, strip), view)
    assert isinstance(screen, InputScreen)
    assert isinstance(screen.model, Classifier)
    pruned = pruning.defend(view, derive(0, "pipeline", 0)).model
    shown = task.test.floats()[:50]
    assert torch.equal(predict(screen.model, shown), predict(pruned, shown))
    alone = strip.defend(replace(view, model=screen.model), derive(0, "pipeline", 1))
    assert torch.equal(screen.score(shown), alone.score(shown))
    assert not torch.equal(screen.score(shown), strip.defend(view, derive(0, "pipeline", 1)).score(shown))
    verdict_first = defend((NeuralCleanse(steps=2, batches=1), strip), view)
    assert isinstance(verdict_first, InputScreen)
    assert verdict_first.model is None


def test_reformations_stand_in_front_of_each_other_and_of_what_follows(task: Task, trojan: Trojan) -> None:
    """The later one sees the input first, and gradients reach the image."""
    view, shown = ModelView(trojan.model, task.holdout), task.test.floats()[:20].requires_grad_()
    outcome = defend((Flip(), ShrinkPad(shrink=2)), view)
    assert isinstance(outcome, CleanModel)
    assert outcome.reform is not None
    shrunk = ShrinkPad(shrink=2).defend(view, derive(0, "pipeline", 1)).reform
    assert shrunk is not None
    torch.testing.assert_close(outcome.reform(shown), shrunk(shown).flip(3))
    torch.testing.assert_close(outcome.model(shown), trojan.model(shrunk(shown).flip(3)))
    outcome.model(shown).sum().backward()
    assert shown.grad is not None
    assert shown.grad.abs().sum() > 0
    screen = defend((Flip(), Strip(overlays=16)), view)
    assert isinstance(screen, InputScreen)
    mirrored = Strip(overlays=16).defend(replace(view, model=trojan.model.behind(nn.Identity())), 0)
    assert not torch.equal(screen.score(shown.detach()), mirrored.score(shown.detach()))


def test_a_pipeline_sees_what_its_parts_need_and_stands_in_the_table_of_its_last() -> None:
    assert Pipeline(defenses=(Flip(), ShrinkPad())).sees() is DataFreeView
    assert Pipeline(defenses=(Flip(), Strip())).sees() is ModelView
    assert Pipeline(defenses=(Flip(), Strip())).judged_as() == "filtering"
    assert Pipeline(defenses=(Flip(), ShrinkPad())).judged_as() == "reformation"
    assert joined([SuspectDataView, ModelView]) is SuspectAndCleanView
    assert joined([SuspectDataView, KnownClassView]) is None


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ("pipeline[defenses=[strip,flip]]", "no defense can follow strip: put it last"),
        ("pipeline[defenses=[flip]]", "at least 2"),
        ("pipeline[defenses=[flip,strip[clean_share=0.1]]]", "set clean_share here, not of strip"),
        ("nc_unlearn[detector=neural_cleanse[clean_share=0.1]]", "set clean_share here, not of neural_cleanse"),
        ("nc_unlearn[detector=activation_clustering]", "activation_clustering needs a SuspectDataView"),
        ("ensemble[defenses=[strip,tabor]]", "all filters of inputs or all detectors, not strip, tabor"),
        ("ensemble[defenses=[flip,shrinkpad]]", "all filters of inputs or all detectors"),
    ],
)
def test_what_can_never_work_is_refused_as_it_is_read(request_: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        DEFENSES.build(request_)


class Curious(Defense[ModelView]):
    """Notes what it sees, and tells nothing."""

    name = "curious"
    family = "inspection"
    view = ModelView

    kind: Any = ModelView

    def sees(self) -> type[DataFreeView]:
        found: type[DataFreeView] = self.kind
        return found

    def defend(self, view: ModelView, seed: int) -> ModelVerdict:
        SEEN.append((type(view), len(view.clean)))
        return ModelVerdict(torch.arange(10.0), None)


SEEN: list[tuple[type[DataFreeView], int]] = []


@pytest.mark.parametrize("wide", [KnownClassView, SuspectAndCleanView])
def test_no_part_sees_more_than_it_asks_for_whatever_the_others_are_told(
    wide: type[DataFreeView], task: Task, trojan: Trojan
) -> None:
    """Or a method that is not told the attacked class would know it from its neighbour."""
    delivered = with_delivered_set(trojan, task)
    knowing = Curious.model_construct(kind=wide)
    both: tuple[Any, ...] = Pipeline(defenses=(Curious(), knowing, Curious())), Ensemble(defenses=(Curious(), knowing))
    for combined in both:
        SEEN.clear()
        view = view_of(combined, delivered, task)
        assert type(view) is wide
        combined.defend(view, 0)
        assert [kind for kind, _ in SEEN] == [ModelView, wide, ModelView][: len(combined.defenses)]
        assert {count for _, count in SEEN} == {len(task.holdout)}


def test_what_follows_each_outcome() -> None:
    task: Task = noise_task((1, 12, 12))
    first, second = train(task, 0), train(task, 1)
    trojan = with_delivered_set(Trojan(first, first, None), task)
    view = builder_of(SuspectDataView)(trojan, task)
    assert isinstance(view, SuspectDataView)

    after = CleanModel(second).after(view)
    assert isinstance(after, SuspectDataView)
    assert torch.equal(after.model.head.weight, second.head.weight)
    assert after.model is not second
    assert after.suspect is view.suspect

    removed = torch.arange(len(view.suspect)) % 3 == 0
    kept = SuspectSamples(torch.zeros(len(view.suspect)), removed, second).after(view)
    assert isinstance(kept, SuspectDataView)
    assert torch.equal(kept.suspect.labels, view.suspect.labels[~removed])
    assert torch.equal(kept.model.head.weight, second.head.weight)

    verdict = ModelVerdict(torch.arange(4.0), 3)
    told = verdict.after(view)
    assert isinstance(told, SuspectDataView)
    assert told.verdict is verdict

    assert "unknown" in str(CleanModel(nn.Sequential(second)).after(view))
    assert "InputScreen" in str(InputScreen(lambda pixels: pixels, 0.0).after(view))
