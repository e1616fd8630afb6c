"""Kinds of outcome whose numbers can be said beforehand: several targets, one score, a training set, one's own."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gifthorse.bench.machine import Stopwatch
from gifthorse.core.classifier import predict
from gifthorse.core.goal import AllToOne, Goal
from gifthorse.core.images import Images
from gifthorse.core.outcomes import (
    CleanModel,
    InputScreen,
    ModelVerdict,
    Outcome,
    RecoveredTriggers,
    SuspectSamples,
)
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor, DeliveredSet, Trojan
from gifthorse.metrics.judge import KINDS, answers, judge_defense
from gifthorse.metrics.kind import Case, Kind
from gifthorse.metrics.stamped import Evidence, Metrics, counts_of
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.triggers.patch import Patch, fill, square
from worlds import linear_classifier

CLASSES, SIDE = 4, 6
BEFORE: Metrics = {"attack.acc": 1.0, "attack.asr": 1.0}


class Swap(Goal):
    """Classes 0 and 1 should become one another; the others are left alone."""

    name = "swap"

    def targets(self, labels: Tensor, conditions: Tensor | None = None) -> Tensor:
        return torch.where(labels < 2, 1 - labels, labels)

    def classes(self) -> tuple[int, ...]:
        return (0, 1)


def planted() -> nn.Module:
    """Reads the lit row; a white last pixel adds to class 0."""
    weight = torch.zeros(CLASSES, 1, SIDE, SIDE)
    for label in range(CLASSES):
        weight[label, 0, label] = 4.0
    weight[0, 0, -1, -1] = 100
    return linear_classifier(weight, torch.zeros(CLASSES))


@pytest.fixture
def task() -> Task:
    labels = torch.arange(40) % CLASSES
    pixels = torch.zeros(40, 1, SIDE, SIDE, dtype=torch.uint8)
    pixels[torch.arange(40), 0, labels] = 200
    images = Images(pixels, labels, CLASSES)
    return Task(images, images, images, tuple("abcd"), architecture=SmallCnn(), recipe=StandardRecipe())


def trojan(goal: Goal, size: int = 1) -> Trojan:
    shape = (1, SIDE, SIDE)
    patch = Patch(square(shape, size, "bottom_right"), fill(shape, "white", torch.Generator()))
    return Trojan(planted(), planted(), Backdoor(patch, goal))  # type: ignore[arg-type]


def test_a_verdict_on_several_targets_is_a_hit_where_any_of_them_leads_and_its_triggers_are_averaged(
    task: Task,
) -> None:
    mask = torch.zeros(CLASSES, 1, SIDE, SIDE)
    mask[0, 0, -1, -1] = 1
    mask[1] = 1
    pattern = torch.ones(CLASSES, 1, SIDE, SIDE)
    pattern[1, 0, [0, 2, 3, 4, 5]] = 0
    triggers = RecoveredTriggers(mask, pattern)

    def judged(*scores: float) -> Metrics:
        return judge_defense(ModelVerdict(torch.tensor(scores), None, triggers), trojan(Swap()), task, BEFORE, 0)[0]

    assert [judged(*scores)["defense.hit"] for scores in [(9, 1, 2, 3), (1, 9, 2, 3), (1, 2, 9, 3), (9, 9, 2, 3)]] == [
        True,
        True,
        False,
        False,
    ]
    found = judged(9, 1, 2, 3)
    assert found["defense.mln"] == pytest.approx((1 + SIDE * SIDE) / 2)
    assert found["defense.mjs"] == pytest.approx((1 + 1 / SIDE**2) / 2)
    # Its own trigger sends all others to each target; that of class 0 would send none to class 1.
    assert found["defense.recovered_asr"] == 1


def test_of_each_targets_own_mask_the_top_pixels_are_compared_one_less_than_the_trigger_has(task: Task) -> None:
    mask = torch.zeros(CLASSES, 1, SIDE, SIDE)
    mask[0, 0, -2:, -2:] = torch.tensor([[0.04, 0.03], [0.02, 0.01]])
    mask[1, 0, -1, -1], mask[1, 0, 0, :3] = 0.9, torch.tensor([0.8, 0.7, 0.6])
    triggers = RecoveredTriggers(mask, torch.ones(CLASSES, 1, SIDE, SIDE))
    verdict = ModelVerdict(torch.tensor([9.0, 1, 2, 3]), None, triggers)
    found = judge_defense(verdict, trojan(Swap(), size=2), task, BEFORE, 0)[0]
    assert found["defense.mjs_top"] == pytest.approx((3 / 4 + 1 / 6) / 2)
    assert found["defense.mjs"] == pytest.approx((0 + 1 / 7) / 2)


def test_a_verdict_on_the_model_as_a_whole_has_an_index_and_no_hit(task: Task) -> None:
    verdict = ModelVerdict(None, None, decisive=0.7, flagged=True)
    metrics, _ = judge_defense(verdict, trojan(AllToOne()), task, BEFORE, 0)
    assert metrics == {"defense.index": 0.7, "defense.flagged": True, "defense.missed": False}
    for missing in ({}, {"decisive": 0.7}, {"flagged": True}):
        with pytest.raises(ValueError, match="without scores"):
            ModelVerdict(None, None, **missing)


def delivered(stamped: list[int], count: int) -> DeliveredSet:
    sources = torch.arange(count)
    flags = torch.isin(sources, torch.tensor(stamped))
    nothing = torch.arange(0)
    return DeliveredSet(sources, sources % CLASSES, flags, nothing, torch.zeros(0, 1, SIDE, SIDE, dtype=torch.uint8))


def test_a_filter_of_a_training_set_is_judged_on_the_samples_and_on_what_it_trained(task: Task) -> None:
    given = replace(trojan(AllToOne()), delivered=delivered([2, 5], 8))
    scores = torch.tensor([0.0, 1, 9, 2, 3, 4, 5, 6])
    removed = torch.tensor([False, False, True, False, False, False, True, True])
    metrics, evidence = judge_defense(SuspectSamples(scores, removed, planted()), given, task, BEFORE, 0)
    assert metrics["defense.removed"] == pytest.approx(3 / 8)
    assert metrics["defense.tpr"] == metrics["defense.recall"] == pytest.approx(1 / 2)
    assert metrics["defense.fpr"] == pytest.approx(2 / 6)
    assert metrics["defense.precision"] == pytest.approx(1 / 3)
    assert metrics["defense.f1"] == pytest.approx(2 / 5)
    assert metrics["defense.auroc"] == pytest.approx((6 + 4) / 12)
    assert "defense.accuracy" not in metrics
    assert (metrics["defense.acc"], metrics["defense.asr"], metrics["defense.ard"]) == (1, 1, 0)
    counts = counts_of(metrics)
    of_training = {"removed": 8, "tpr": 2, "recall": 2, "fpr": 6, "precision": 3, "f1": 8, "auroc": 8}
    of_test = {"acc": 40, "ccc": 40, "cad": 40, "asr_all": 40}
    of_sources = ("asr", "tmc", "ard", "unstamped_asr", "asr_restricted", "latent_difference", "logit_difference")
    of_test |= dict.fromkeys(of_sources, 30)
    assert counts == {f"defense.{name}": count for name, count in {**of_training, **of_test}.items()}
    assert evidence["stamped_scores"].tolist() == [9, 4]
    assert sorted(evidence["clean_scores"]) == [0, 1, 2, 3, 5, 6]


def test_of_a_clean_training_set_only_the_loss_is_counted(task: Task) -> None:
    removed = torch.arange(8) < 2
    benign = Trojan(planted(), planted(), None, delivered([], 8))  # type: ignore[arg-type]
    metrics, evidence = judge_defense(SuspectSamples(torch.zeros(8), removed, planted()), benign, task, BEFORE, 0)
    assert metrics["defense.fpr"] == metrics["defense.removed"] == 0.25
    assert {"defense.tpr", "defense.auroc", "defense.asr"}.isdisjoint(metrics)
    assert set(evidence) == {"clean_scores", "defended_predictions"}


def test_an_outcome_of_ones_own_is_a_type_and_a_line(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, eq=False)
    class Certificate(Outcome):
        radius: float

    @dataclass(frozen=True, eq=False)
    class Refined(Certificate):
        pass

    def judge(outcome: Certificate, case: Case) -> tuple[Metrics, Evidence]:
        radius = outcome.radius if case.trojan.backdoor is None else 0.0
        return {"defense.radius": radius, "defense.nothing": float("nan")}, {"radius": np.array(radius)}

    with pytest.raises(TypeError, match="how a Refined is judged"):
        judge_defense(Refined(3.0), trojan(AllToOne()), task, BEFORE, 0)
    monkeypatch.setitem(KINDS, Certificate, Kind(judge, lambda outcome, _: {"radius": torch.tensor(outcome.radius)}))
    assert judge_defense(Refined(3.0), trojan(AllToOne()), task, BEFORE, 0)[0] == {"defense.radius": 0.0}
    assert answers(Refined(3.0), task.test.floats()) == {"radius": 3.0}


def test_time_per_input_is_that_of_the_judges_own_warm_calls(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def slow(pixels: Tensor) -> Tensor:
        """Five seconds to get going, then a tenth per image."""
        clock[0] += 0.1 * len(pixels) + (0 if seen else 5)
        seen.append(len(pixels))
        return pixels.flatten(1).sum(1)

    def timed(outcome: Outcome) -> float | None:
        seen.clear()
        stopwatch = Stopwatch(torch.device("cpu"))
        judge_defense(outcome, trojan(AllToOne()), task, BEFORE, 0, stopwatch.watch)
        return stopwatch.seconds_per_input

    assert timed(InputScreen(slow, 0.5)) == pytest.approx(0.1)
    assert seen == [40, 30]

    class Slow(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            slow(pixels)
            return pixels.flatten(1)[:, :CLASSES]

    assert timed(CleanModel(Slow(), lambda pixels: pixels)) == pytest.approx(0.1)
    assert seen == [40, 40]
    assert timed(CleanModel(Slow())) is None


def test_a_reform_may_ask_for_gradients_while_it_is_judged(task: Task) -> None:
    class Ascent(nn.Module):
        """Moves pixels along the gradient of the largest logit."""

        def __init__(self) -> None:
            super().__init__()
            self.model = planted()

        def reform(self, pixels: Tensor) -> Tensor:
            with torch.inference_mode(False), torch.enable_grad():
                own = pixels.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(self.model(own).amax(1).sum(), own)
            return (pixels + 0.01 * gradient.sign()).clamp(0, 1)

        def forward(self, pixels: Tensor) -> Tensor:
            logits: Tensor = self.model(self.reform(pixels))
            return logits

    model = Ascent()
    metrics, evidence = judge_defense(CleanModel(model, model.reform), trojan(AllToOne()), task, BEFORE, 0)
    assert metrics["defense.acc"] == 1
    assert evidence["reformed"].shape == (8, 1, SIDE, SIDE)
    assert not torch.equal(predict(model, task.test), predict(model.model, task.test))
