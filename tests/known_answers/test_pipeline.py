"""One defense after another, and what an attacker may ask of one."""

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from gifthorse import (
    CleanModel,
    Defense,
    Evadable,
    InputScreen,
    Materials,
    ModelVerdict,
    ModelView,
    Outcome,
    SuspectDataView,
    SuspectSamples,
)
from gifthorse.bench.views import builder_of, materials_for
from gifthorse.core.seeds import derive
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.defenses import DEFENSES
from gifthorse.defenses.filtering.strip import Strip
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse
from gifthorse.defenses.sanitization.fine_pruning import FinePruning
from gifthorse.training.scratch import train
from worlds import live_pixel_view, noise_images, noise_task, with_delivered_set


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


class Pipeline(Defense[ModelView]):
    """Runs its parts one after another; the last one's answer is its own."""

    name = "pipeline"
    family = "sanitization"
    view = ModelView
    parts: ClassVar[tuple[Defense[Any], ...]] = ()

    def prepare(self, materials: Materials, seed: int) -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}
        for number, part in enumerate(self.parts):
            if part.preparation() is not None:
                made |= {f"{number}/{name}": tensor for name, tensor in part.prepare(materials, seed).items()}
        return made

    def defend(self, view: ModelView, seed: int) -> Outcome:
        for number, part in enumerate(self.parts):
            place = f"{number}/"
            own = {name.removeprefix(place): made for name, made in view.prepared.items() if name.startswith(place)}
            given = replace(view, prepared=own)
            reason = part.skip(given)
            if reason is not None:
                raise ValueError(f"{part.name} {reason}")
            outcome = part.defend(given, derive(seed, "part", number))
            if part is self.parts[-1]:
                return outcome
            following = outcome.after(view)
            if isinstance(following, str):
                raise ValueError(following)
            view = following
        raise ValueError("a pipeline needs parts")


def test_a_trigger_that_one_part_recovers_is_what_the_next_one_unlearns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = live_pixel_view(target=2, row=7, column=5)
    plain = NeuralCleanse(steps=60, batches=1, batch_size=32)
    monkeypatch.setattr(Pipeline, "parts", (plain, Blank()))
    stamped = view.clean.floats()
    stamped[:, :, 7, 5] = 1
    assert (view.model(stamped).argmax(1) == 2).all()
    outcome = Pipeline().defend(view, 0)
    assert isinstance(outcome, CleanModel)
    assert torch.equal(outcome.model(stamped).argmax(1), view.clean.labels)
    assert view.verdict is None
    monkeypatch.setattr(Pipeline, "parts", (Strip(overlays=10), plain))
    with pytest.raises(ValueError, match="no defense can follow an answer of the kind InputScreen"):
        Pipeline().defend(view, 0)


def test_each_part_of_a_pipeline_finds_what_it_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    task, pipeline = noise_task((1, 12, 12)), Pipeline()
    calibrated = NeuralCleanse(steps=3, batches=1, batch_size=32, reference=2)
    monkeypatch.setattr(Pipeline, "parts", (calibrated, FinePruning(epochs=0)))
    assert pipeline.preparation() is not None
    prepared = pipeline.prepare(materials_for(ModelView, task), 0)
    assert set(prepared) == {"0/reference_norms"}
    model = train(task, 0)
    view = builder_of(ModelView)(Trojan(model, model, None), task)
    assert isinstance(view, ModelView)
    assert isinstance(pipeline.defend(replace(view, prepared=prepared), 0), CleanModel)


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


evadable = [name for name, cls in DEFENSES.items() if isinstance(cls(), Evadable)]


def test_who_can_be_evaded() -> None:
    assert evadable == ["strip"]


@pytest.mark.parametrize("name", evadable)
def test_training_against_a_defense_lowers_its_penalty_and_needs_nothing_of_the_defender(name: str) -> None:
    task = noise_task((1, 12, 12))
    defense, model = DEFENSES[name](), train(task, 0)
    assert isinstance(defense, Evadable)
    stamped, targets = task.train.floats()[:8].requires_grad_(), torch.zeros(8, dtype=torch.long)

    def penalty(seed: int = 0) -> Tensor:
        return defense.penalty(model, stamped, targets, task.train, seed)

    before = torch.get_rng_state()
    first = penalty()
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == ()
    assert torch.equal(penalty(), first)
    assert not torch.equal(penalty(1), first)
    first.backward()
    assert stamped.grad is not None
    assert stamped.grad.abs().sum() > 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.step()
    assert penalty() < first


def test_strips_penalty_is_the_mean_of_its_own_scores(task: Task, trojan: Trojan) -> None:
    strip, shown = Strip(overlays=16), task.test.take(slice(20)).floats()
    screen = strip.defend(ModelView(trojan.model, task.holdout), 3)
    penalty = strip.penalty(trojan.model, shown, noise_images(20, task.test.shape, 10).labels, task.holdout, 3)
    torch.testing.assert_close(penalty.detach(), screen.score(shown).mean())
