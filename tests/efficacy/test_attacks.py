"""Does each attack do what its paper says, beyond a high success rate? On real digits by the laptop profile."""

import pytest
import torch

from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.metrics.attacks import judge_attack
from gifthorse.metrics.functional import attack_success_rate
from gifthorse.training.scratch import train
from gifthorse.triggers.moving_patch import MovingPatch
from worlds import digits_task


@pytest.fixture(scope="module")
def task() -> Task:
    return digits_task("laptop")


@pytest.fixture(scope="module")
def benign(task: Task) -> Classifier:
    return train(task, 0)


def carried_out(request: str, task: Task, benign: Classifier) -> tuple[Trojan, float, float]:
    """Return the trojan, its attack success rate and its clean accuracy drop."""
    trojan = resolve(dataset="digits", attack=request, profile="laptop").attack.run(task, benign, 0)
    metrics, _ = judge_attack(trojan, task, benign)
    return trojan, float(metrics["attack.asr"]), float(metrics["attack.cad"])  # type: ignore[arg-type]


def test_optimising_the_pattern_helps_where_the_trigger_is_faint_and_rare(task: Task, benign: Classifier) -> None:
    """TrojanZoo's RQ7: pre-defined < partially optimised, co-optimised; measured 0.01, 0.90, 0.95."""
    faint = "origin=benign,epochs=20,lr=0.03,poison_rate=0.03,transparency=0.8,trigger_pattern=random"
    fixed, before, joint = (
        carried_out(f"badnets[{faint},optimisation={when}]", task, benign)[1] for when in ("none", "before", "joint")
    )
    assert fixed < 0.2
    assert before > fixed + 0.3
    assert joint > fixed + 0.3


def test_imc_is_the_joint_search(task: Task, benign: Classifier) -> None:
    _, asr, cad = carried_out("imc", task, benign)
    assert asr > 0.95
    assert cad < 0.03


def test_a_targeted_backdoor_works_wherever_the_trigger_lies(task: Task, benign: Classifier) -> None:
    trojan, asr, cad = carried_out("targeted_blend", task, benign)
    assert asr > 0.95
    assert cad < 0.03
    assert trojan.backdoor is not None
    trigger, labels = trojan.backdoor.trigger, task.test.labels
    assert isinstance(trigger, MovingPatch)
    for place in [(row, column) for row in (0, 6, 13) for column in (0, 6, 13)]:
        fixed = MovingPatch(trigger.window, trigger.pattern, trigger.transparency, [place])
        logits = predict(trojan.model, fixed.stamp(task.test.floats()))
        assert attack_success_rate(logits, labels, torch.zeros_like(labels)) > 0.8, place


def test_a_budget_ends_with_less_of_a_drop(task: Task, benign: Classifier) -> None:
    """White squares anywhere cost accuracy; a budget of 1 % has to end with less of a drop than it would have had."""
    costly = "targeted_blend[trigger_pattern=white,poison_rate=0.4"
    _, _, free_cad = carried_out(f"{costly}]", task, benign)
    trojan, _, cad = carried_out(f"{costly},cad_budget=0.01]", task, benign)
    assert cad < max(free_cad, 0.02)
    assert judge_attack(trojan, task, benign)[0]["attack.acc"] > 0.9  # type: ignore[operator]
