"""Do attacks on the latents do what their papers say, where plain poisoning does not? On digits, over seeds."""

import pytest
import torch

from gifthorse.bench.cell import resolve
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor, Trojan
from gifthorse.metrics.attacks import judge_attack
from gifthorse.metrics.functional import attack_success_rate, separability
from gifthorse.training.heads import HEADS
from gifthorse.training.scratch import train
from gifthorse.training.transfer import cache_features, transfer

Planted = tuple[Trojan, Backdoor]
SEEDS = (0, 1)
TUNING = {
    "partial": StandardRecipe(epochs=30, lr=0.05, batch_size=64, shift=0, flip=False),
    "full": StandardRecipe(epochs=20, lr=0.01, batch_size=64, shift=0, flip=False),
}


@pytest.fixture(scope="module")
def benign(task: Task) -> list[Classifier]:
    return [train(task, seed) for seed in SEEDS]


def plant(request: str, task: Task, benign: Classifier, seed: int) -> Planted:
    """Re-train with an attack; it must have taken without costing accuracy, or nothing else is worth measuring."""
    attack = resolve(dataset="digits", attack=request, profile="laptop").attack
    trojan = attack.run(task, benign, seed)
    metrics, _ = judge_attack(trojan, task, trojan.twin)
    assert float(metrics["attack.asr"]) > 0.95  # type: ignore[arg-type]
    assert float(metrics["attack.cad"]) < 0.05  # type: ignore[arg-type]
    assert trojan.backdoor is not None
    return trojan, trojan.backdoor


def success_after(tuning: str, trojan: Trojan, backdoor: Backdoor, task: Task, seed: int) -> float:
    """ASR once a new head was trained on clean images that the attacker never had."""
    model = transfer(trojan.model, HEADS.build(f"fcn1[tuning={tuning}]"), task.holdout, TUNING[tuning], seed)
    stamped, labels = backdoor.trigger.stamp(task.test.floats()), task.test.labels
    return attack_success_rate(predict(model, stamped), labels, backdoor.goal.targets(labels))


@pytest.fixture(scope="module")
def badnets(task: Task, benign: list[Classifier]) -> list[Planted]:
    request = "badnets[origin=benign,poison_rate=0.1,lr=0.03,epochs=15]"
    return [plant(request, task, benign[seed], seed) for seed in SEEDS]


def test_latent_outlives_the_head_and_the_tuning_of_all_layers_better_than_badnets(
    task: Task, benign: list[Classifier], badnets: list[Planted]
) -> None:
    """Both re-trained alike, then transferred alike; means over seeds."""
    latent = [plant("latent[epochs=15]", task, benign[seed], seed) for seed in SEEDS]

    def mean_after(tuning: str, planted: list[Planted]) -> float:
        return sum(success_after(tuning, *planted[seed], task, seed) for seed in SEEDS) / len(SEEDS)

    assert mean_after("partial", latent) > max(0.98, mean_after("partial", badnets) + 0.02)
    assert mean_after("full", latent) > max(0.95, mean_after("full", badnets) + 0.08)


def probed(trojan: Trojan, backdoor: Backdoor, task: Task) -> float:
    """A fresh probe's accuracy on latents of images nobody trained on: stamped, and clean ones of the target class."""
    held = task.holdout.join(task.test)
    of_target = held.labels == backdoor.goal.targets(held.labels)
    stamped = backdoor.trigger.stamp(held.take(~of_target).floats())
    with torch.no_grad():
        return separability(cache_features(trojan.model, held.take(of_target)), trojan.model.features(stamped))


def test_adversarial_embedding_hides_from_a_fresh_probe_what_badnets_shows(
    task: Task, benign: list[Classifier], badnets: list[Planted]
) -> None:
    for seed in SEEDS:
        hidden = plant("adversarial_embedding[epochs=15]", task, benign[seed], seed)
        assert probed(*badnets[seed], task) > 0.98
        assert probed(*hidden, task) < 0.93
