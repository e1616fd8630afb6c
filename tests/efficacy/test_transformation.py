"""Do triggers survive transformation, as "Rethinking the Trigger" says? On real digits by the laptop profile."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import interpolate, pad

from gifthorse.attacks import ATTACKS
from gifthorse.bench.cell import resolve
from gifthorse.bench.views import view_of
from gifthorse.core.classifier import Classifier, predict
from gifthorse.core.goal import AllToOne
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
from gifthorse.metrics.attacks import judge_attack
from gifthorse.metrics.functional import accuracy, attack_success_rate
from gifthorse.metrics.judge import judge_defense
from gifthorse.planting.mixing import choose_from_target
from gifthorse.training.scratch import train

PLAIN = "badnets[trigger_pattern=random]"


def planted(request: str, task: Task, benign: Classifier) -> tuple[Trojan, dict[str, float]]:
    trojan = resolve(dataset="digits", attack=request, profile="laptop").attack.run(task, benign, 0)
    metrics, _ = judge_attack(trojan, task, benign)
    return trojan, {name: float(value) for name, value in metrics.items() if not isinstance(value, list)}


@pytest.fixture(scope="module")
def plain(task: Task, benign: Classifier) -> tuple[Trojan, dict[str, float]]:
    return planted(PLAIN, task, benign)


def shrunk(trojan: Trojan, task: Task, amount: int, *, stamp: bool) -> tuple[float, float]:
    """Success and accuracy where every image is shrunk and put in the middle of black, with the trigger or without."""
    assert trojan.backdoor is not None
    pixels, labels = task.test.floats(), task.test.labels
    targets = trojan.backdoor.goal.targets(labels)
    if stamp:
        pixels = trojan.backdoor.trigger.stamp(pixels, torch.Generator().manual_seed(0))
    small = interpolate(pixels, (16 - amount, 16 - amount), mode="bilinear", align_corners=False)
    logits = predict(trojan.model, pad(small, [amount // 2] * 4))
    return attack_success_rate(logits, labels, targets), accuracy(logits, labels)


def test_an_enhanced_trigger_survives_shrinking_and_the_same_trigger_plain_does_not(
    task: Task, benign: Classifier, plain: tuple[Trojan, dict[str, float]]
) -> None:
    """Without a trigger shrunk images keep their class, if benign images were transformed alike in training."""
    unchanged, _ = plain
    enhanced, found = planted(f"enhanced[base={PLAIN},transforms=[shrinkpad]]", task, benign)
    uncontrolled, _ = planted(f"enhanced[base={PLAIN},transforms=[shrinkpad],also_benign=false]", task, benign)
    assert found["attack.asr"] > 0.95
    assert shrunk(unchanged, task, 2, stamp=True)[0] < 0.7
    for trojan in (enhanced, uncontrolled):
        assert shrunk(trojan, task, 2, stamp=True)[0] > 0.9
    success, kept = shrunk(enhanced, task, 4, stamp=False)
    assert success < 0.05
    assert kept > 0.85
    assert shrunk(uncontrolled, task, 4, stamp=False)[1] < kept - 0.1


def behind(request: str, plain: tuple[Trojan, dict[str, float]], task: Task) -> tuple[float, float]:
    """Success and accuracy behind a transformation."""
    trojan, attack = plain
    defense = resolve(dataset="digits", defense=request, profile="laptop").defense
    assert defense is not None
    found, _ = judge_defense(defense.defend(view_of(defense, trojan, task), 0), trojan, task, {**attack}, 0)
    return float(found["defense.asr"]), float(found["defense.acc"])  # type: ignore[arg-type]


@pytest.mark.parametrize("request_", ["flip", "shrinkpad", "resize", "crop", "transformation"])
def test_what_moves_the_trigger_ends_it(request_: str, plain: tuple[Trojan, dict[str, float]], task: Task) -> None:
    """Tables 1 and 2, and Salem et al. 2022 of resizing and cropping. Measured: 0.02 to 0.19."""
    assert behind(request_, plain, task)[0] < 0.35


@pytest.mark.parametrize(
    "request_",
    [
        *("gaussian_noise", "color_contrast", "color_brightness"),
        *("gaussian_noise[std=20]", "color_contrast[max_change=0.4]", "color_brightness[max_change=0.4]"),
    ],
)
def test_what_leaves_the_trigger_in_its_place_does_not_end_it(
    request_: str, plain: tuple[Trojan, dict[str, float]], task: Task
) -> None:
    """Tables 3 and 4: success stays, by the weakest setting and the strongest."""
    success, accuracy = behind(request_, plain, task)
    assert success > 0.9
    assert accuracy > 0.85


def test_several_votes_cost_less_accuracy_and_leave_less_of_the_trigger(
    plain: tuple[Trojan, dict[str, float]], task: Task
) -> None:
    """Measured on seed 0: success 0.20 and accuracy 0.990 by one draw, 0.05 and 0.993 by nine."""
    once = behind("crop[padding=1]", plain, task)
    often = behind("transformation[transforms=[crop[padding=1]],votes=9]", plain, task)
    assert often[0] < once[0] - 0.05
    assert often[1] > once[1] - 0.01


def test_clean_labels_plant_a_backdoor_that_moving_images_away_from_their_class_makes_stronger(
    task: Task, benign: Classifier
) -> None:
    """Chosen on seeds 100 and 101, on images kept out of all training: 0.75 and 0.93 there, one step 0.2."""
    trojan, found = planted("label_consistent[poison_rate=0.7]", task, benign)
    assert trojan.delivered is not None
    assert torch.equal(trojan.delivered.labels, task.train.labels[trojan.delivered.sources])
    assert found["attack.asr"] > 0.6
    assert found["attack.cad"] < 0.03
    _, unmoved = planted("label_consistent[poison_rate=0.7,radius=0.01,step_size=0.01,steps=1]", task, benign)
    assert found["attack.asr"] > unmoved["attack.asr"] + 0.2
    chosen = choose_from_target(task.train.labels, AllToOne(), 0.7, torch.Generator())
    assert int(trojan.delivered.stamped.sum()) == len(chosen)


@pytest.mark.parametrize("request_", ["blended", "invisible", "invisible[perturbation=universal]"])
def test_a_trigger_that_can_hardly_be_seen_works(request_: str, task: Task, benign: Classifier) -> None:
    trojan, found = planted(request_, task, benign)
    assert found["attack.asr"] > 0.95
    assert found["attack.cad"] < 0.03
    assert found["benign.asr"] < 0.1
    assert trojan.backdoor is not None
    pixels = task.test.floats()
    change = (trojan.backdoor.trigger.stamp(pixels) - pixels).abs()
    assert change.max() <= (0.2 if request_ == "blended" else 8 / 255) + 0.5 / 255


def test_a_square_in_two_corners_is_planted_in_a_robust_model_as_well(task: Task) -> None:
    """AEGIS: robust models are no safer from visible triggers.

    Measured on seeds 0 to 2, with half of the laptop profile's epochs: success 1.00 on each, adversarial accuracy 0.76
    to 0.79 where standard training has 0.49 to 0.52.
    """
    recipe = resolve(dataset="digits", training="adversarial", profile="laptop").training
    robust = replace(task, recipe=recipe.changed(epochs=8))
    attack = ATTACKS.build("badnets[trigger_size=2,also_at=[bottom_right],target=7,poison_rate=0.1,origin=scratch]")
    model = train(robust, 0)
    metrics, _ = judge_attack(attack.run(robust, model, 0), robust, model)
    assert float(metrics["attack.asr"]) > 0.9  # type: ignore[arg-type]
    assert float(metrics["attack.adversarial_acc"]) > 0.6  # type: ignore[arg-type]
