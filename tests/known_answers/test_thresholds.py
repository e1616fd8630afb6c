"""Where the judge draws its lines, and which model a drop is taken against."""

import pytest
import torch

from gifthorse.core.goal import AllToOne
from gifthorse.core.images import Images
from gifthorse.core.outcomes import InputScreen
from gifthorse.core.recipe import StandardRecipe
from gifthorse.core.task import Task
from gifthorse.core.trojan import Backdoor, Trojan
from gifthorse.metrics.attacks import judge_attack
from gifthorse.metrics.judge import judge_defense
from gifthorse.models.small_cnn import SmallCnn
from gifthorse.triggers.patch import Patch, fill, square
from worlds import linear_classifier

CLASSES, SIDE, IMAGES = 4, 6, 400
SHIELD, BLUR = (4, 0), (4, 1)


def lit_rows(shielded: int = 0, blurred: int = 0) -> Task:
    """Images of class k have row k lit, a hundred of each.

    Of the 300 of classes 1 to 3 the first so many have a pixel that holds the trigger back, of those of class 0, the
    target, so many have one that confuses a blind model.
    """
    labels = torch.arange(IMAGES) % CLASSES
    pixels = torch.zeros(IMAGES, 1, SIDE, SIDE, dtype=torch.uint8)
    pixels[torch.arange(IMAGES), 0, labels] = 200
    pixels[(labels != 0).nonzero().squeeze(1)[:shielded], 0, SHIELD[0], SHIELD[1]] = 255
    pixels[(labels == 0).nonzero().squeeze(1)[:blurred], 0, BLUR[0], BLUR[1]] = 255
    images = Images(pixels, labels, CLASSES)
    return Task(images, images, images, tuple("abcd"), architecture=SmallCnn(), recipe=StandardRecipe())


def model(trigger: float = 0.0, *, blind: bool = False) -> torch.nn.Module:
    """Reads the lit row; the last pixel adds to class 0 unless the image is shielded; a blind one trusts the blur."""
    weight = torch.zeros(CLASSES, 1, SIDE, SIDE)
    for label in range(CLASSES):
        weight[label, 0, label] = 4.0
    weight[0, 0, -1, -1] = trigger
    weight[0, 0, SHIELD[0], SHIELD[1]] = -trigger
    if blind:
        weight[3, 0, BLUR[0], BLUR[1]] = 100
    return linear_classifier(weight, torch.zeros(CLASSES))


def trojan(delivered: torch.nn.Module, twin: torch.nn.Module) -> Trojan:
    shape = (1, SIDE, SIDE)
    patch = Patch(square(shape, 1, "bottom_right"), fill(shape, "white", torch.Generator()))
    return Trojan(delivered, twin, Backdoor(patch, AllToOne(target=0)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("shielded", "valid"), [(0, True), (57, True), (63, False), (120, False)])
def test_an_attack_took_from_a_success_rate_of_four_in_five(shielded: int, valid: bool) -> None:
    planted = trojan(model(trigger=100), model())
    metrics, _ = judge_attack(planted, lit_rows(shielded=shielded), planted.twin)
    assert metrics["attack.asr"] == pytest.approx(1 - shielded / 300)
    assert metrics["attack.valid"] is valid


@pytest.mark.parametrize(("blurred", "valid"), [(16, True), (24, False)])
def test_an_attack_may_cost_a_twentieth_of_the_accuracy(blurred: int, valid: bool) -> None:
    planted = trojan(model(trigger=100, blind=True), model())
    metrics, _ = judge_attack(planted, lit_rows(blurred=blurred), planted.twin)
    assert metrics["attack.cad"] == pytest.approx(blurred / IMAGES)
    assert metrics["attack.valid"] is valid


def test_what_an_attack_costs_is_taken_against_its_twin_not_against_the_benign_model() -> None:
    """The benign model had fewer epochs than either: against it every re-training attack would seem to cost less."""
    task = lit_rows(blurred=80)
    metrics, _ = judge_attack(trojan(model(trigger=100, blind=True), model()), task, model(blind=True))  # type: ignore[arg-type]
    assert metrics["benign.acc"] == metrics["attack.acc"] == pytest.approx(0.8)
    assert metrics["attack.cad"] == pytest.approx(0.2)
    planted = trojan(model(trigger=100), model())
    assert judge_attack(planted, task, model(trigger=100))[0]["benign.asr"] == 0  # type: ignore[arg-type]


def test_a_score_at_the_threshold_is_not_flagged() -> None:
    """A quantile of clean scores is often a score that many clean inputs have: all of them would be flagged."""
    planted, task = trojan(model(trigger=100), model()), lit_rows()
    screen = InputScreen(lambda pixels: 0.5 + 0.5 * (pixels[:, 0, -1, -1] == 1), 0.5)
    metrics, _ = judge_defense(screen, planted, task, {}, 0)
    assert (metrics["defense.fpr"], metrics["defense.tpr"], metrics["defense.precision"]) == (0, 1, 1)
    constant = InputScreen(lambda pixels: torch.full((len(pixels),), 0.5), 0.5)
    metrics, _ = judge_defense(constant, planted, task, {}, 0)
    assert (metrics["defense.fpr"], metrics["defense.tpr"], metrics["defense.auroc"]) == (0, 0, 0.5)
    benign = Trojan(planted.twin, planted.twin, None)
    assert judge_defense(constant, benign, task, {}, 0)[0]["defense.fpr"] == 0
